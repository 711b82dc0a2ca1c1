//! A small disk that a test can fill or make read-only: a tmpfs in a mount namespace that only the processes started
//! [on](Disk::start_on) it see.
//!
//! It needs Linux with util-linux (`unshare`, `nsenter`, `mount`), and either root or user namespaces.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::geteuid;

use crate::server::Program;

/// The disk. It is removed when this is dropped and the processes on it have ended.
#[derive(Debug)]
pub struct Disk {
    /// Holds the namespace: it reads from a pipe that ends with the test, however the test ends.
    holder: Child,
    mount_point: PathBuf,
}

impl Disk {
    /// A disk of `bytes` at `mount_point`, a directory.
    ///
    /// # Panics
    ///
    /// If this user may not make one on this machine; the message says what to do.
    pub fn new(mount_point: &Path, bytes: u64) -> Self {
        let script = "mount -t tmpfs -o size=\"$1\",mode=0777 keylatch-test \"$2\" && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(if geteuid().is_root() { ["-m"].as_slice() } else { ["-U", "-r", "-m"].as_slice() })
            .args(["--propagation", "private", "sh", "-c", script, "sh", &bytes.to_string()])
            .arg(mount_point)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("`unshare` could not be run ({error}); {ADVICE}"));
        let mut said = [0; 6];
        let ready = holder.stdout.take().expect("it is piped").read_exact(&mut said);
        if ready.is_err() || said != *b"ready\n" {
            let output = holder.wait_with_output().expect("it has ended");
            panic!("no disk for this test: {}; {ADVICE}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Self { holder, mount_point: mount_point.to_owned() }
    }

    /// `program`, started in the namespace of this disk.
    #[must_use]
    pub fn start_on(&self, program: Program) -> Program {
        program.through(self.enter())
    }

    /// The path of a file on the disk for the test itself, which has another file system there.
    pub fn outside(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.mount_point.strip_prefix("/").expect("it is absolute")).join(name)
    }

    /// Fills the disk to the last byte.
    ///
    /// # Errors
    ///
    /// If it cannot be written for any reason but a full disk.
    pub fn fill(&self) -> io::Result<()> {
        let mut filler = File::options().create(true).append(true).open(self.outside(FILLER))?;
        // Large steps, then single bytes: even a write smaller than a large step must fail.
        for step in [64 << 10, 1 << 10, 1] {
            let zeros = vec![0; step];
            loop {
                match filler.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Frees the space again.
    ///
    /// # Errors
    ///
    /// If it was not [full](Self::fill).
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.outside(FILLER))
    }

    /// Makes the whole disk read-only, or writable again. No process may have a file open for writing.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn read_only(&self, read_only: bool) {
        let mut command = self.enter();
        let mode = if read_only { "remount,bind,ro" } else { "remount,bind,rw" };
        command.extend(["mount", "-o", mode].map(OsString::from));
        command.push(self.mount_point.clone().into_os_string());
        let output = Command::new(&command[0]).args(&command[1..]).output().expect("nsenter runs, as unshare did");
        assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn enter(&self) -> Vec<OsString> {
        let target = self.holder.id().to_string();
        let mut command = vec!["nsenter", "--target", &target, "--mount"];
        if !geteuid().is_root() {
            command.extend(["--user", "--preserve-credentials"]);
        }
        command.push("--");
        command.into_iter().map(OsString::from).collect()
    }
}

const FILLER: &str = "filler";
const ADVICE: &str = "run the tests as root, or let users have name spaces of their own \
                      (`sysctl kernel.unprivileged_userns_clone=1`, `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; \
                      in a container `--privileged`), with util-linux installed";

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It has read the end of its input, and ends.
        let _ = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_full_and_is_freed_and_becomes_read_only() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path(), 1 << 20);
        let file = disk.outside("file");
        fs::write(&file, "before").unwrap();
        assert!(!dir.path().join("file").exists(), "nobody else sees it");

        disk.fill().unwrap();
        assert_eq!(fs::write(disk.outside("other"), "x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.free().unwrap();
        fs::write(disk.outside("other"), "x").unwrap();

        disk.read_only(true);
        assert_eq!(fs::write(&file, "x").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        disk.read_only(false);
        fs::write(&file, "after").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");
    }
}
