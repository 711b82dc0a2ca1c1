//! What containers, Kubernetes and systemd are told, compared with the program.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::files::{deploy, root, run, strings, text, yaml};
use crate::setup::Pair;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gateway-under-test");
/// What the gateway may take beside `--drain-max` to end.
const AFTER_DRAIN: u64 = 3;

/// Whether the program knows these arguments and takes their values. It then prints its help instead of starting.
fn accepts(arguments: &[&str]) -> Result<(), String> {
    run(PROGRAM, &[arguments, &["--help"]].concat()).map(drop)
}

/// The value of `--name=VALUE` or `--name VALUE`.
fn option<'a>(arguments: &[&'a str], name: &str) -> &'a str {
    let mut arguments = arguments.iter();
    let found = arguments.by_ref().find(|argument| argument.split('=').next() == Some(name)).expect(name);
    found.split_once('=').map_or_else(|| *arguments.next().expect("a value"), |(_, value)| value)
}

/// Whole seconds, as `20s`.
fn seconds(text: &str) -> u64 {
    text.trim_end_matches('s').parse().expect("seconds")
}

#[test]
fn an_argument_that_the_program_does_not_know_is_found() {
    for wrong in [&["gateway", "--colour=red"][..], &["gateway", "--drain-max=soon"], &["gatway"]] {
        assert!(accepts(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_image_has_no_rights_and_its_parts_fit() {
    let file = text("deploy/Dockerfile");
    let file = file.replace("\\\n", " ");
    let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect();
    let instructions: Vec<(&str, &str)> = lines.iter().filter_map(|line| line.split_once(' ')).collect();
    const KNOWN: [&str; 11] = [
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ];
    for (instruction, _) in &instructions {
        assert!(KNOWN.contains(instruction), "{instruction} is no instruction");
    }
    let of = |name: &str| instructions.iter().filter(|(of, _)| *of == name).map(|(_, rest)| *rest).collect::<Vec<_>>();
    assert_eq!(of("FROM").len(), 2, "the sources and compilers stay in the first stage");
    assert_eq!(of("USER"), ["10001:10001"]);
    assert_eq!(of("STOPSIGNAL"), ["SIGTERM"]);
    assert_eq!(of("ENTRYPOINT"), ["[\"/usr/local/bin/keylatch\"]"]);
    let command: Vec<String> = serde_json::from_str(of("CMD")[0]).unwrap();
    accepts(&command.iter().map(String::as_str).filter(|argument| *argument != "--help").collect::<Vec<_>>()).unwrap();
    let minor = |version: &str| version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
    let image = of("FROM")[0].split(['-', ':']).nth(1).unwrap();
    // What the PostgreSQL store needs; see crates/keylatch-postgres/Cargo.toml.
    assert!(minor(image) >= 94, "{image} is older than what the gateway needs");
}

#[tokio::test]
async fn the_health_check_of_the_image_tells_a_gateway_that_works_from_one_that_does_not() {
    let file = text("deploy/Dockerfile").replace("\\\n", " ");
    let check = file.split(" CMD ").nth(1).unwrap().lines().next().unwrap();
    let check: Vec<String> = serde_json::from_str(check).unwrap();
    let pair = Pair::new("fenced", &["--admin-listen", "127.0.0.1:0"]).await;
    let printed = pair.gateway.printed();
    let port = printed.split("admin ").nth(1).unwrap().split(['/', ':']).nth(4).unwrap().to_owned();
    let healthy = async || {
        let script = check[2].replace("127.0.0.1/9090", &format!("127.0.0.1/{port}"));
        let status = Command::new(&check[0]).arg(&check[1]).arg(script).output().await.expect("bash is installed");
        status.status.success()
    };
    assert!(healthy().await);
    assert!(pair.gateway.terminate().await.0.success());
    assert!(!healthy().await);
}

#[test]
fn compose_starts_the_gateway_as_the_program_wants_it() {
    let compose = yaml("compose.yaml");
    let gateway = &compose["services"]["gateway"];
    let command = strings(&gateway["command"]);
    // Compose puts in what stands after `:-`.
    let command: Vec<String> =
        command.iter().map(|argument| argument.replace("${KEYLATCH_UPSTREAM:-", "").replace('}', "")).collect();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    accepts(&command).unwrap();
    assert!(
        seconds(gateway["stop_grace_period"].as_str().unwrap())
            >= seconds(option(&command, "--drain-max")) + AFTER_DRAIN
    );
    assert_eq!(gateway["read_only"], true);
    assert_eq!(strings(&gateway["cap_drop"]), ["ALL"]);
    assert_eq!(strings(&gateway["security_opt"]), ["no-new-privileges:true"]);
    assert_eq!(gateway["build"]["dockerfile"], "deploy/Dockerfile");
    for (name, service) in compose["services"].as_object().unwrap() {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name} can be reached from other machines");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let (from, _) = volume.as_str().unwrap().split_once(':').unwrap();
            let there = deploy(from).exists() || compose["volumes"].get(from).is_some();
            assert!(there, "{name} mounts {from}, which is not there");
        }
        for needed in service["depends_on"].as_object().into_iter().flat_map(|services| services.keys()) {
            assert!(compose["services"].get(needed).is_some(), "{name} needs {needed}");
        }
    }
    let scraped = yaml("prometheus/prometheus.yml");
    let target = &scraped["scrape_configs"][0]["static_configs"][0]["targets"][0];
    let (host, port) = target.as_str().unwrap().split_once(':').unwrap();
    assert!(host == "gateway" && option(&command, "--admin-listen").ends_with(&format!(":{port}")));
    let source = yaml("grafana/provisioning/datasources/prometheus.yaml");
    assert_eq!(source["datasources"][0]["url"], "http://prometheus:9090");
    let provider = yaml("grafana/provisioning/dashboards/keylatch.yaml");
    let path = provider["providers"][0]["options"]["path"].as_str().unwrap();
    let mounted = |volume: &&str| volume.contains(&format!("keylatch.json:{path}/"));
    assert!(strings(&compose["services"]["grafana"]["volumes"]).iter().any(mounted));
    run(PROGRAM, &["check-config", &deploy("keylatch.toml").display().to_string()]).unwrap();
}

#[test]
fn kubernetes_gets_manifests_that_fit_together() {
    let files =
        strings(&yaml("kubernetes/kustomization.yaml")["resources"]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let there = fs::read_dir(deploy("kubernetes")).unwrap().count();
    assert_eq!(files.len() + 1, there, "kustomization.yaml names every file");
    let of_kind = |kind: &str| {
        let mut manifests = files.iter().map(|file| yaml(&format!("kubernetes/{file}")));
        manifests.find(|manifest| manifest["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
    };
    let deployment = of_kind("Deployment");
    let pod = &deployment["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &of_kind("Service")["spec"]["selector"],
        &of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        &of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    for kind in ["Deployment", "Service", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy"] {
        assert_eq!(of_kind(kind)["metadata"]["namespace"], of_kind("Namespace")["metadata"]["name"], "{kind}");
    }
    assert!(
        of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"].as_u64() < deployment["spec"]["replicas"].as_u64()
    );
    let container = &pod["spec"]["containers"][0];
    restricted(&pod["spec"], container);

    let arguments = strings(&container["args"]);
    accepts(&arguments).unwrap();
    let stopping = strings(&container["lifecycle"]["preStop"]["exec"]["command"]);
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert_eq!(stopping[0], "sleep");
    assert!(grace >= seconds(stopping[1]) + seconds(option(&arguments, "--drain-max")) + AFTER_DRAIN, "{grace} s");

    let ports: Vec<&Value> = container["ports"].as_array().unwrap().iter().collect();
    let port = |name: &str| ports.iter().find(|port| port["name"] == name).expect(name)["containerPort"].to_string();
    assert!(option(&arguments, "--listen").ends_with(&format!(":{}", port("http"))));
    assert!(option(&arguments, "--admin-listen").ends_with(&format!(":{}", port("admin"))));
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], port("admin"));
    assert_eq!(of_kind("Service")["spec"]["ports"][0]["targetPort"], "http");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "admin", "{probe}");
    }

    let config = of_kind("ConfigMap");
    let mount = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    let (name, contents) = config["data"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(option(&arguments, "--config"), format!("{mount}/{name}"));
    assert_eq!(pod["spec"]["volumes"][0]["configMap"]["name"], config["metadata"]["name"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    fs::write(&file, contents.as_str().unwrap()).unwrap();
    run(PROGRAM, &["check-config", &file.display().to_string()]).unwrap();
}

/// What the profile `restricted` of Kubernetes asks for, and a file system that cannot be written.
fn restricted(pod: &Value, container: &Value) {
    let (of_pod, of_container) = (&pod["securityContext"], &container["securityContext"]);
    assert_eq!(of_pod["runAsNonRoot"], true);
    assert!(text("deploy/Dockerfile").contains(&format!("USER {}:{}", of_pod["runAsUser"], of_pod["runAsGroup"])));
    assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(of_container["allowPrivilegeEscalation"], false);
    assert_eq!(of_container["readOnlyRootFilesystem"], true);
    assert_eq!(strings(&of_container["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(pod["automountServiceAccountToken"], false);
}

#[tokio::test]
async fn the_probes_ask_what_the_gateway_answers() {
    let deployment = yaml("kubernetes/deployment.yaml");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let pair = Pair::new("fenced", &["--admin-listen", "127.0.0.1:0"]).await;
    let printed = pair.gateway.printed();
    let admin = printed.split("admin ").nth(1).unwrap().trim().split("/metrics").next().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let url = format!("{admin}{}", container[probe]["httpGet"]["path"].as_str().unwrap());
        let answer = client.get(&url).timeout(Duration::from_secs(20)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{probe}: {url}");
    }
}

#[test]
fn systemd_takes_the_unit_and_its_sandbox_is_tight() {
    let unit = text("deploy/systemd/keylatch.service");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keylatch.service");
    // systemd looks for the program.
    fs::write(&file, unit.replace("/usr/local/bin/keylatch ", &format!("{PROGRAM} "))).unwrap();
    let path = file.display().to_string();
    let printed = run("systemd-analyze", &["verify", &path]).unwrap_or_else(|printed| panic!("{printed}"));
    assert!(!printed.contains("keylatch.service"), "it complains: {printed}");
    // From 0 to 10, in tenths: below 2 is called OK.
    run("systemd-analyze", &["security", "--no-pager", "--offline=true", "--threshold=19", &path])
        .unwrap_or_else(|printed| panic!("{printed}"));

    let joined = unit.replace("\\\n", " ");
    let value =
        |name: &str| joined.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).expect(name).to_owned();
    for name in ["ExecStart", "ExecStartPre"] {
        let command = value(name);
        let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
        accepts(&arguments).unwrap();
        if name == "ExecStart" {
            let stop = value("TimeoutStopSec").parse::<u64>().unwrap();
            assert!(stop >= seconds(option(&arguments, "--drain-max")) + AFTER_DRAIN, "{stop} s");
        }
    }
    assert!(value("Environment").contains(&format!("/var/lib/{}", value("StateDirectory"))));
}

#[test]
fn the_page_says_what_was_run_and_what_was_only_parsed() {
    let page = text("docs/DEPLOY.md");
    assert!(page.contains("| file | checked |"));
    let mut missing = Vec::new();
    let mut folders = vec![deploy("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let name = entry.strip_prefix(root().join("deploy")).unwrap().display().to_string();
            let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
            let covered = |row: &&&str| {
                let named = row.split('`').nth(1).unwrap();
                named == name || named.strip_suffix('/').is_some_and(|folder| name.starts_with(&format!("{folder}/")))
            };
            if rows.iter().find(covered).is_none() {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "docs/DEPLOY.md does not name {missing:?}");
}
