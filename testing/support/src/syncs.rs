//! Syncs that fail, as on a disk that loses data and says so.
//!
//! It needs strace, and the right to trace: root, or `sysctl kernel.yama.ptrace_scope=0`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::server::Server;

/// Until this is dropped, each fsync and fdatasync of a server fails with EIO, and is not executed.
#[derive(Debug)]
pub struct FailingSyncs {
    strace: Child,
}

impl FailingSyncs {
    /// The syncs of `server`, from when this returns.
    ///
    /// # Panics
    ///
    /// If this user may not trace on this machine; the message says what to do.
    pub fn of(server: &Server) -> Self {
        let mut strace = Command::new("strace")
            .args(["-f", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-o", "/dev/null"])
            .args(["-p", &server.id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("strace could not be run ({error}); {ADVICE}"));
        let mut said = String::new();
        let read = BufReader::new(strace.stderr.as_mut().expect("it is piped")).read_line(&mut said);
        // "strace: Process 7 attached", with how many threads.
        assert!(read.is_ok() && said.contains(" attached"), "no syncs can be made to fail: {}; {ADVICE}", said.trim());
        Self { strace }
    }
}

const ADVICE: &str = "run the tests as root, or let users trace (`sysctl kernel.yama.ptrace_scope=0`), with strace \
                      installed";

impl Drop for FailingSyncs {
    fn drop(&mut self) {
        // It detaches from the server, and ends.
        if let Some(pid) = self.strace.id().try_into().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.strace.wait();
    }
}
