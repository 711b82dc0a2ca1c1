//! A program that a script kills with SIGKILL and starts again, on the same port.

use std::path::PathBuf;
use std::process::Command;

use rand::Rng as _;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::eventually;
use crate::server::START_MAX;

/// Kills the program, if it runs, and waits until its port is free.
const KILL: &str = "if [ -e pid ]; then
    pid=$(cat pid)
    kill -9 $pid
    while grep -qs '^State:[^Z]*$' /proc/$pid/status; do sleep 0.01; done
fi";

/// A program in a directory of its own. Killed when dropped.
#[derive(Debug)]
pub struct Restartable {
    directory: TempDir,
    port: u16,
}

impl Restartable {
    /// Starts `command`, a line for a shell, which is told its port. Waits until it listens.
    ///
    /// # Panics
    ///
    /// If it does not listen within [`START_MAX`].
    pub async fn start(command: impl FnOnce(u16) -> String) -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let port = free_port().await;
        let (path, command) = (directory.path().display(), command(port));
        let text = format!("cd '{path}'\n{KILL}\n{command} </dev/null >log 2>&1 &\necho $! >pid\n");
        let this = Self { directory, port };
        std::fs::write(this.script(), text).expect("the script is written");
        assert!(Command::new("sh").arg(this.script()).status().expect("the script runs").success());
        eventually(START_MAX, "the program to listen", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok())
            .await;
        this
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("restart.sh")
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The command that kills it and starts it again.
    pub fn restart(&self) -> String {
        format!("sh '{}'", self.script().display())
    }
}

/// A free port below those that the system gives to outgoing connections: such a connection could take the port while the
/// program is down.
///
/// # Panics
///
/// If there is none.
pub async fn free_port() -> u16 {
    for _ in 0..1_000 {
        let port = rand::rng().random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

impl Drop for Restartable {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.directory.path().join("pid")) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}
