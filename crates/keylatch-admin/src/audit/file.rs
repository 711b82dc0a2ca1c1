//! The audit file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// A file to which lines are appended. It is opened for each line.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
}

impl File {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let file = Self { path: path.to_owned() };
        let is_new = !path.exists();
        file.open()?.sync_all()?;
        if is_new {
            // So that a crash does not take the name of the file.
            let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
            fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(file)
    }

    fn open(&self) -> io::Result<fs::File> {
        let mut options = OpenOptions::new();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.read(true).append(true).create(true).open(&self.path)
    }

    /// Appends a line in one write, and syncs it. Part of a line that could not be written as a whole is ended first.
    pub(super) fn append(&self, line: &[u8]) -> io::Result<()> {
        let mut file = self.open()?;
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last == [b'\n'] {
            file.write_all(line)?;
        } else {
            file.write_all(&[b"\n", line].concat())?;
        }
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn lines_are_appended_for_the_owners_eyes_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let file = File::new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        file.append(b"one\n").unwrap();
        fs::rename(&path, directory.path().join("audit.1")).unwrap();
        file.append(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n", "a rotated file is made again");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_torn_line_does_not_spoil_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, "{\"torn\":").unwrap();
        let file = File::new(&path).unwrap();
        file.append(b"whole\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"torn\":\nwhole\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        assert!(File::new(Path::new("/nowhere/at/all/audit.jsonl")).is_err());
    }
}
