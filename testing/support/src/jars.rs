//! Java, and the jars of servers that run on it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

const INSTALL_JAVA: &str = "install Java: apt-get install openjdk-17-jre-headless";
const INSTALL_MAVEN: &str = "install Maven: apt-get install maven";

/// The jars of one server, as its pom names them.
#[derive(Debug)]
pub(crate) struct Jars {
    /// The directory in `dev/` with the pom.
    pub(crate) name: &'static str,
    /// The same as in the pom: another version is another directory.
    pub(crate) version: &'static str,
    pub(crate) fetched: OnceLock<PathBuf>,
}

/// The program.
///
/// # Panics
///
/// If it is not installed, with the command that does so.
pub(crate) fn java() -> PathBuf {
    program("java").unwrap_or_else(|| panic!("no java on the PATH; {INSTALL_JAVA}"))
}

impl Jars {
    pub(crate) const fn new(name: &'static str, version: &'static str) -> Self {
        Self { name, version, fetched: OnceLock::new() }
    }

    /// For `java -cp`. The first call on a machine fetches them.
    ///
    /// # Panics
    ///
    /// If they cannot be fetched, with the command that installs Maven if that is missing.
    pub(crate) fn class_path(&self) -> String {
        self.fetched.get_or_init(|| self.fetch()).join("*").display().to_string()
    }

    fn fetch(&self) -> PathBuf {
        let Self { name, version, .. } = self;
        let directory = in_target(&format!("{name}-{version}"));
        let parent = directory.parent().expect("it is in the target directory");
        fs::create_dir_all(parent).expect("the target directory is writable");
        // Test programs that start at once fetch once.
        let lock = fs::File::create(parent.join(format!("{name}.lock"))).expect("the target directory is writable");
        flock(&lock, FlockOperation::LockExclusive).expect("a file can be locked");
        if !directory.exists() {
            let maven = program("mvn").unwrap_or_else(|| panic!("no mvn on the PATH; {INSTALL_MAVEN}"));
            let half = parent.join(format!("{name}-{version}.half"));
            let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../dev/{name}/pom.xml"));
            let output = Command::new(maven)
                .args(["-q", "-B", "-f"])
                .arg(pom)
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", half.display()))
                .output()
                .expect("mvn runs");
            assert!(output.status.success(), "Maven did not fetch {name}: {}", String::from_utf8_lossy(&output.stdout));
            // So a directory of this name is always whole.
            fs::rename(&half, &directory).expect("the target directory is writable");
        }
        directory
    }
}

/// The directory `name` in the target directory that this program was built in.
fn in_target(name: &str) -> PathBuf {
    let program = env::current_exe().expect("a program knows where it is");
    let target = program.ancestors().find(|place| place.join("CACHEDIR.TAG").exists());
    target.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), Path::to_owned).join(name)
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|place| place.join(name)).find(|program| program.exists())
}
