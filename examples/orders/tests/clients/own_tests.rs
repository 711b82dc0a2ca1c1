//! The clients' own tests, with the installed packages; and what their packages contain.

use std::process::Command;

use crate::packages::{INSTALLED, run};

#[test]
fn node_runs_its_own_tests() {
    let printed = run(&mut node_tests(&[]));
    assert!(passed(&printed, "# pass ") > 150, "{printed}");
}

/// The parts that are not Node's: SHA-256 and randomness as browsers have them.
#[test]
fn node_runs_its_own_tests_with_the_parts_for_browsers() {
    let printed = run(&mut node_tests(&["--conditions=browser"]));
    assert!(passed(&printed, "# pass ") > 150, "{printed}");
}

#[test]
fn python_runs_its_own_tests() {
    let tests = INSTALLED.path("clients/python/tests");
    let mut python = INSTALLED.python();
    let printed = run(python.args(["-W", "error", "-m", "unittest", "discover", "-s"]).arg(tests));
    assert!(passed(&printed, "Ran ") > 30, "{printed}");
}

#[test]
fn python_is_typed() {
    let mut python = INSTALLED.python();
    run(python.args(["-m", "mypy", "--strict", "--package", "keylatch_client"]));
    let mut python = INSTALLED.python();
    // A program that uses the package sees its types.
    run(python.args(["-m", "mypy", "--strict", "orders.py"]));
}

#[test]
fn node_is_typed() {
    let program = "import { Client, Key, type Answer } from 'keylatch-client';
import { FileJournal } from 'keylatch-client/node';
const client = new Client({ journal: await FileJournal.open('journal'), policy: { triesMax: 2 } });
const answer: Answer = await client.post('/orders', { json: {}, key: Key.derive(['order']) });
answer.replayed satisfies boolean;
// @ts-expect-error: there is no such limit
new Client({ policy: { tries: 2 } });
";
    let path = INSTALLED.path("app/typed.mts");
    std::fs::write(&path, program).expect("the directory is ours");
    let compiler = INSTALLED.path("clients/typescript/node_modules/typescript/bin/tsc");
    let flags = ["--strict", "--noEmit", "--module", "nodenext", "--target", "es2022"];
    run(INSTALLED.node().arg(compiler).args(flags).arg(path));
}

#[test]
fn the_package_for_node_has_what_it_needs_and_no_more() {
    let list = run(Command::new("sh").arg("-c").arg(format!("tar -tzf {}/keylatch-client-*.tgz", directory())));
    let mut files: Vec<_> = list.lines().filter(|file| !file.starts_with("package/dist/")).collect();
    files.sort_unstable();
    assert_eq!(files, ["package/LICENSE", "package/README.md", "package/package.json"]);
    for file in ["index.js", "index.d.ts", "node.js", "node.d.ts", "platform.node.js", "platform.web.js"] {
        assert!(list.contains(&format!("package/dist/{file}\n")), "{file} is missing:\n{list}");
    }
    let manifest = std::fs::read(INSTALLED.path("app/node_modules/keylatch-client/package.json")).expect("it is there");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    assert_eq!(manifest.get("dependencies"), None, "it has no dependency at run time");
}

#[test]
fn the_package_for_python_has_what_it_needs_and_no_more() {
    let list =
        "import glob, sys, zipfile; print(*sorted(zipfile.ZipFile(glob.glob(sys.argv[1])[0]).namelist()), sep='\\n')";
    let list = run(INSTALLED.python().args(["-c", list, &format!("{}/keylatch_client-*.whl", directory())]));
    let others: Vec<_> = list.lines().filter(|file| !file.starts_with("keylatch_client/")).collect();
    assert!(others.iter().all(|file| file.contains(".dist-info/")), "{list}");
    assert!(others.iter().any(|file| file.ends_with("/licenses/LICENSE")), "{list}");
    for file in ["__init__.py", "httpx.py", "requests.py", "py.typed"] {
        assert!(list.lines().any(|line| line == format!("keylatch_client/{file}")), "{file} is missing:\n{list}");
    }
    let required =
        "from importlib.metadata import requires; print([r for r in requires('keylatch-client') if 'extra' not in r])";
    assert_eq!(run(INSTALLED.python().args(["-c", required])), "[]\n", "it has no dependency of its own");
}

fn node_tests(arguments: &[&str]) -> Command {
    let mut node = INSTALLED.node();
    node.args(arguments).args(["--test", "--test-reporter=tap"]);
    for name in ["cases", "client"] {
        node.arg(INSTALLED.path(&format!("clients/typescript/test/{name}.test.mjs")));
    }
    node.env("KEYLATCH_DIST", format!("file://{}/app/node_modules/keylatch-client/dist/", directory()));
    node
}

fn directory() -> String {
    INSTALLED.path("").display().to_string()
}

/// The number after `label`, at the start of a line.
fn passed(printed: &str, label: &str) -> u32 {
    let number = printed.lines().find_map(|line| line.strip_prefix(label)?.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no line begins with {label}:\n{printed}"))
}
