//! Which core is used for what.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// One core each for the server and the load; `None` on a machine or in a container with only one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: Option<usize>,
    pub(crate) load: Option<usize>,
    /// How many cores this process may use.
    pub(crate) count: usize,
}

/// The first two cores that this process may use.
pub(crate) fn allowed() -> Result<Cores> {
    let set = sched_getaffinity(None)?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    let two = allowed.get(1).is_some();
    Ok(Cores { server: allowed.first().copied().filter(|_| two), load: allowed.get(1).copied(), count: allowed.len() })
}

/// Starts a server on `core`: its processes inherit it from the thread that starts them.
pub(crate) fn started_on<S: Send + 'static>(core: Option<usize>, start: fn() -> S) -> Result<S> {
    on_core(core, move || Ok(start()))
}

/// Does it on a thread on `core`, from which processes inherit it.
pub(crate) fn on_core<T: Send + 'static>(
    core: Option<usize>,
    start: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let starting = std::thread::spawn(move || pin(core).and_then(|()| start()));
    starting.join().map_err(|_| "its thread ended")?
}

/// Keeps this thread, and those that it starts from now on, on `core`.
pub(crate) fn pin(core: Option<usize>) -> Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}
