//! The machine on which the figures were measured.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;
use crate::cores::Cores;

/// The machine and the versions, in a few lines.
pub(crate) fn describe(cores: &Cores, scratch: &Path) -> Result<String> {
    let placed = match (cores.server, cores.load) {
        (Some(server), Some(load)) => format!("server on core {server}, load on core {load}"),
        _ => "server and load share the one core, so the rates are too low and the ratios too high".to_owned(),
    };
    let file_system = file_system(scratch).unwrap_or_else(|| "an unknown file system".to_owned());
    let memory = if file_system == "tmpfs" { ": in memory, so nothing of SQLite's speed can be learnt" } else { "" };
    Ok(format!(
        "Machine: {}, {} cores; {placed}\nFiles: {} on {file_system}{memory}; {:.0} writes a second that are synced one \
         by one\nVersions: {}, SQLite {}",
        cpu().unwrap_or_else(|| "an unknown processor".to_owned()),
        cores.count,
        scratch.display(),
        syncs(scratch)?,
        rustc().unwrap_or_else(|| "an unknown rustc".to_owned()),
        rusqlite::version(),
    ))
}

/// How many times a second the disk can overwrite a page and sync it: the cost of a commit alone.
fn syncs(dir: &Path) -> Result<f64> {
    const TIME: Duration = Duration::from_millis(500);
    const PAGES: u64 = 256;
    let page = [0xab; 8192];
    let file = File::create(dir.join("syncs"))?;
    for at in 0..PAGES {
        file.write_all_at(&page, at * page.len() as u64)?;
    }
    file.sync_all()?;
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < TIME {
        file.write_all_at(&page, count % PAGES * page.len() as u64)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

fn cpu() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches(['\t', ' ', ':']).to_owned())
}

fn rustc() -> Option<String> {
    let output = Command::new("rustc").arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The type of the file system that `path` is on: that of the longest mount point above it.
fn file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}
