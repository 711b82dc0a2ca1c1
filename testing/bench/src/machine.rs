//! What the figures were measured on.

use std::path::Path;
use std::process::Command;

use crate::cores::Cores;

/// The machine and the versions, in a few lines.
pub(crate) fn describe(cores: &Cores, scratch: &Path) -> String {
    let placed = match (cores.server, cores.load) {
        (Some(server), Some(load)) => format!("server on core {server}, load on core {load}"),
        _ => "server and load share the one core, so the rates are too low and the ratios too high".to_owned(),
    };
    let file_system = file_system(scratch).unwrap_or_else(|| "an unknown file system".to_owned());
    let memory = if file_system == "tmpfs" { ": in memory, so nothing of SQLite's speed can be learnt" } else { "" };
    format!(
        "Machine: {}, {} cores; {placed}\nFiles: {} on {file_system}{memory}\nVersions: {}, SQLite {}",
        cpu().unwrap_or_else(|| "an unknown processor".to_owned()),
        cores.count,
        scratch.display(),
        rustc().unwrap_or_else(|| "an unknown rustc".to_owned()),
        rusqlite::version(),
    )
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
