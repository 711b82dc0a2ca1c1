//! `replay = synced`: an answer is given only when its record is known to be on the standbys too.
//!
//! With synchronous replication, a commit waits for a standby. That wait can be cancelled, by an operator or with its
//! connection: the transaction is then committed and anyone can read it, although a failover would lose it. An answer
//! from such a record may later be lost, together with the effect.

use std::time::{Duration, Instant};

use super::Shared;
use super::error::{Fault, Sent};
use super::link::Link;
use super::rows::{damaged, get};
use keylatch_core::store::ErrorKind;
use keylatch_core::{Record, State};

/// Which records an answer may come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay {
    /// Those that are committed on this server. A failover may lose what its replication may lose.
    #[default]
    Committed,
    /// Those that are known to be on the synchronous standbys too. Each replay that a cache of this process does not
    /// have, and each first answer, takes a further round trip.
    ///
    /// It needs `synchronous_standby_names`, `synchronous_commit` of `on` or `remote_apply`, and a role that is a member of
    /// `pg_read_all_stats`.
    Synced,
}

/// How long to wait for the standbys before saying that the store is unavailable: they are milliseconds behind, or gone.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// The first and the longest pause between looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

impl Shared {
    /// Whether `record` may be used for an answer: if required, waits until it is on the standbys.
    pub(super) async fn answerable(&self, record: Option<&Record>) -> Result<(), Fault> {
        let completed = matches!(record.map(|record| &record.state), Some(State::Completed { .. }));
        if completed && self.options.replay == Replay::Synced {
            self.synced(&mut self.links.link().await?).await?;
        }
        Ok(())
    }

    /// After a commit: the answer may only be given if nothing cancelled its wait.
    pub(super) async fn kept(&self, link: &mut Link) -> Result<(), Fault> {
        self.synced(link).await.map_err(|fault| fault.with_kind(ErrorKind::NotKnown))
    }

    /// If required, waits until everything that is committed now is on the standbys.
    async fn synced(&self, link: &mut Link) -> Result<(), Fault> {
        if self.options.replay == Replay::Committed {
            return Ok(());
        }
        let started = Instant::now();
        let mut pause = PAUSE.0;
        let mut position: Option<String> = None;
        loop {
            let query = || self.query(&self.statements.synced).bind(position.clone());
            let rows = self.links.rows_on(link, Sent::Harmless, query).await?;
            let row = rows.first().ok_or_else(|| damaged("a row is missing"))?;
            if get(row, "synced")? {
                return Ok(());
            }
            if started.elapsed() + pause > WAIT_MAX {
                let what = "the standby has not confirmed the record; check whether replication is running";
                return Err(Fault::new(ErrorKind::Unavailable, what));
            }
            position = get(row, "log_position")?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}
