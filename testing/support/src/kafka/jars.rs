//! Java, and the jars of the broker.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

const INSTALL_JAVA: &str = "install Java: apt-get install openjdk-17-jre-headless";
const INSTALL_MAVEN: &str = "install Maven: apt-get install maven";
/// The same version as in the pom: another version is another directory.
const DIRECTORY: &str = "kafka-4.3.1";

/// The program.
///
/// # Panics
///
/// If it is not installed, with the command that does so.
pub(super) fn java() -> PathBuf {
    program("java").unwrap_or_else(|| panic!("no java on the PATH; {INSTALL_JAVA}"))
}

/// The broker's jars, for `java -cp`. The first call on a machine fetches them.
///
/// # Panics
///
/// If they cannot be fetched, with the command that installs Maven if that is missing.
pub(super) fn class_path() -> String {
    static JARS: OnceLock<PathBuf> = OnceLock::new();
    JARS.get_or_init(fetched).join("*").display().to_string()
}

fn fetched() -> PathBuf {
    let directory = super::in_target(DIRECTORY);
    let parent = directory.parent().expect("it is in the target directory");
    fs::create_dir_all(parent).expect("the target directory is writable");
    // Test programs that start at once fetch once.
    let lock = fs::File::create(parent.join("kafka.lock")).expect("the target directory is writable");
    flock(&lock, FlockOperation::LockExclusive).expect("a file can be locked");
    if !directory.exists() {
        let maven = program("mvn").unwrap_or_else(|| panic!("no mvn on the PATH; {INSTALL_MAVEN}"));
        let half = parent.join(format!("{DIRECTORY}.half"));
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/kafka/pom.xml");
        let output = Command::new(maven)
            .args(["-q", "-B", "-f"])
            .arg(pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", half.display()))
            .output()
            .expect("mvn runs");
        assert!(output.status.success(), "Maven did not fetch Kafka: {}", String::from_utf8_lossy(&output.stdout));
        // So a directory of this name is always whole.
        fs::rename(&half, &directory).expect("the target directory is writable");
    }
    directory
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|place| place.join(name)).find(|program| program.exists())
}
