//! A process that ends with the one that started it, and whose files go with it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

/// A program with a directory of its own. It is killed, and the directory removed, when this is dropped or when the
/// process that started it is gone, however.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) directory: PathBuf,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    /// A shell that kills the program when this process closes its end of the pipe.
    guard: Child,
    pipe: Option<ChildStdin>,
}

impl Guarded {
    /// Makes the directory. Nothing runs yet.
    pub(crate) fn in_directory(prefix: &str) -> Self {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir().expect("a directory").keep();
        Self { directory, running: Mutex::new(None) }
    }

    /// Runs a program, whose output goes to the log.
    pub(crate) fn run(&self, program: &PathBuf, args: impl IntoIterator<Item = String>) {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(program)
            .args(args)
            .env("KEYLATCH_DIRECTORY", &self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh can be run");
        let pipe = guard.stdin.take();
        let mut pid = String::new();
        BufReader::new(guard.stdout.take().expect("it is piped")).read_line(&mut pid).expect("the guard says the id");
        let pid = Pid::from_raw(pid.trim().parse().expect("an id")).expect("an id");
        *self.running.lock() = Some(Running { pid, guard, pipe });
    }

    pub(crate) fn has_ended(&self) -> bool {
        let running = self.running.lock();
        running.as_ref().is_none_or(|running| {
            let status = fs::read_to_string(format!("/proc/{}/status", running.pid.as_raw_nonzero()));
            // The guard waits for it only later.
            status.is_ok_and(|status| status.contains("State:\tZ"))
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let running = self.running.lock();
        let running = running.as_ref().expect("the program runs");
        kill_process(running.pid, signal).expect("a program that the guard has not waited for can be signalled");
    }

    /// Kills it if it runs, and keeps its files.
    pub(crate) fn end(&self) {
        let Some(mut running) = self.running.lock().take() else { return };
        if let Some(mut pipe) = running.pipe.take() {
            pipe.write_all(b"keep\n").expect("the guard reads");
        }
        running.guard.wait().expect("the guard ends");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
        // A directory that is left over harms nothing.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Kills the program when its input ends, which it does when the process that started it is gone, however; then nobody
/// needs the files either. A program that was stopped is not waited for before that, so that its id stays its own.
const GUARD: &str = r#"
    trap '' INT
    "$@" >"$KEYLATCH_DIRECTORY/log" 2>&1 </dev/null &
    echo $!
    read -r word
    kill -9 $! 2>/dev/null
    wait
    [ "$word" = keep ] || rm -rf "$KEYLATCH_DIRECTORY"
"#;
