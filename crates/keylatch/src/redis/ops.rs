//! The contract of a store, on Redis.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::script::{self, Arg, Lua, Reply};
use super::value::{self, Found, HEADER_BYTES};
use super::{Inner, Store};
use crate::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
use crate::packed;
use crate::store::{Applied, At, Durability, Error, ErrorKind, PageRequest, Swept};
use crate::{Epoch, Lease, Owner, Record, RecordId, Scope, State, Timestamp};

/// How often a record is read anew because someone else has changed it meanwhile. Each time, one of those who want to
/// change it has.
const CHANGES_MAX: usize = 1_000;
/// So many arguments has the claim, which has most, after the clock and the identity.
const ARGS_MAX: usize = 5;

impl crate::store::Store for Store {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(self.claim_record(claim))
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let target = Target::new(self, lease.id);
            let reply = match step {
                // What is noted before has to be read.
                Some(_) => target.read().await?,
                None => {
                    let owned = value::owned(lease.epoch, lease.owner);
                    let [ends, takeover, free] = spans_of(terms);
                    target.run(&script::RENEW, &[Arg::Bytes(&owned), ends, takeover, free]).await?
                }
            };
            let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
            target
                .settle(reply, |record, now| {
                    machine::renew(record, &lease, terms, step, now).map_or(Change::None, Change::Write)
                })
                .await
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let target = Target::new(self, lease.id);
            let owned = value::owned(lease.epoch, lease.owner);
            let all = completion.retention.saturating_add(completion.tombstone);
            let outcome = packed::pack(&completion.outcome, self.0.compress_from_bytes);
            let args = [Arg::Bytes(&owned), Arg::span(completion.retention), Arg::span(all), Arg::Bytes(&outcome)];
            let reply = target.run(&script::COMPLETE, &args).await?;
            target
                .settle(reply, |record, now| {
                    machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
                })
                .await
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let target = Target::new(self, lease.id);
            let reply = match end {
                End::Free(keep) => target.release(lease.epoch, lease.owner, keep).await?,
                End::Retry(_) | End::Unknown => target.read().await?,
            };
            target.settle(reply, |record, now| machine::release(record, &lease, end, now)).await
        })
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let target = Target::new(self, lease.id);
            let reply = target.read().await?;
            target.settle(reply, |record, now| machine::resolve(record, &lease, &resolution, now)).await
        })
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(self.sweep_records(limit))
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            let Reply { now, record, .. } = Target::new(self, id).read().await?;
            let value = record.map(|bytes| value::decode(id, &bytes)).transpose()?.map(|found| found.record);
            Ok(At { value, now })
        })
    }

    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        Box::pin(self.list_records(page))
    }

    fn lapsed(&self, after: Option<RecordId>, limit: usize) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        Box::pin(self.lapsed_records(after, limit))
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(self.count_records(scope, limit))
    }

    fn durability(&self) -> Durability {
        self.0.durability
    }
}

impl Store {
    async fn claim_record(&self, claim: Claim) -> Result<At<Claimed>, Error> {
        let target = Target::new(self, claim.id());
        // Its instants are the server's to write; the rest of it is known.
        let Claimed::Won(new) = machine::claim(None, &claim, Timestamp::from_millis(0)) else {
            unreachable!("a key without a record is won")
        };
        let parts = value::parts_of_new(&new);
        let [lease, takeover, free] = spans_of(claim.terms);
        let args = [Arg::Bytes(&parts.head), lease, takeover, free, Arg::Bytes(&parts.tail)];

        let reply = target.run(&script::CLAIM, &args).await?;
        if reply.done != 0 {
            return Ok(At { value: machine::claim(None, &claim, reply.now), now: reply.now });
        }
        Box::pin(self.claim_of_held(&claim, &target, &args, reply)).await
    }

    /// Goes on from the record that the script has handed back.
    async fn claim_of_held(
        &self,
        claim: &Claim,
        target: &Target<'_>,
        args: &[Arg<'_>],
        mut reply: Reply,
    ) -> Result<At<Claimed>, Error> {
        for _ in 0..CHANGES_MAX {
            let now = reply.now;
            if reply.done != 0 {
                return Ok(At { value: machine::claim(None, claim, now), now });
            }
            let Some(bytes) = &reply.record else {
                // It went while it was about to be replaced.
                reply = target.run(&script::CLAIM, args).await?;
                continue;
            };
            let Found { record, header } = value::decode(target.id, bytes)?;
            if !record.belongs_to(claim.scope(), claim.key()) {
                return Err(Error::new(ErrorKind::Corrupt, "a record of another scope or key has this identity"));
            }
            let value = machine::claim(Some(record.clone()), claim, now);
            match &value {
                Claimed::Won(won) if *won != record || self.0.link.waits() => {
                    reply = target.replace(&header, won).await?;
                    if reply.done != 0 {
                        return Ok(At { value, now });
                    }
                }
                // Held; or sent again after a lost reply, and granted before.
                _ => return Ok(At { value, now }),
            }
        }
        Err(contended())
    }

    /// What a script takes for the clock: nothing, for the server's.
    pub(super) fn now_arg(&self) -> Arg<'static> {
        #[cfg(feature = "conformance")]
        if let Some(clock) = &self.0.clock {
            return Arg::Number(clock.now().as_millis());
        }
        Arg::Nothing
    }
}

/// One record, and where it stands.
pub(super) struct Target<'s> {
    store: &'s Store,
    id: RecordId,
    key: Vec<u8>,
}

impl<'s> Target<'s> {
    pub(super) fn new(store: &'s Store, id: RecordId) -> Self {
        Self { store, id, key: store.0.keys.record(id) }
    }

    /// Runs a script on it; `args` are those after the clock and the identity.
    pub(super) async fn run(&self, script: &Lua, args: &[Arg<'_>]) -> Result<Reply, Error> {
        let Inner { link, keys, .. } = &*self.store.0;
        let mut all = [Arg::Nothing; 2 + ARGS_MAX];
        (all[0], all[1]) = (self.store.now_arg(), Arg::Bytes(self.id.as_bytes()));
        all[2..2 + args.len()].copy_from_slice(args);
        Ok(script.run(link, &keys.all(self.id, &self.key), &all[..2 + args.len()]).await?)
    }

    async fn read(&self) -> Result<Reply, Error> {
        Ok(script::READ.run(&self.store.0.link, &[&self.key], &[self.store.now_arg()]).await?)
    }

    async fn release(&self, epoch: Epoch, owner: Owner, keep: Duration) -> Result<Reply, Error> {
        self.run(&script::RELEASE, &[Arg::Bytes(&value::owned(epoch, owner)), Arg::span(keep)]).await
    }

    /// Writes `next` in place of the record that has `header`.
    async fn replace(&self, header: &[u8; HEADER_BYTES], next: &Record) -> Result<Reply, Error> {
        let [due, lease] = match next.state {
            State::Running { lease_ends_at, .. } => [None, Some(lease_ends_at)],
            State::Completed { .. } => [machine::due_at(next), None],
        }
        .map(Arg::instant);
        let next = value::encode(next, header, self.store.0.compress_from_bytes);
        self.run(&script::REPLACE, &[Arg::Bytes(header), Arg::Bytes(&next), due, lease]).await
    }

    /// Removes the record that has `header`.
    async fn remove(&self, header: &[u8; HEADER_BYTES]) -> Result<Reply, Error> {
        self.run(&script::REPLACE, &[Arg::Bytes(header), Arg::Nothing]).await
    }

    /// Goes on from what a script has done: if it left the record to the machine, makes the change that `decide` wants.
    ///
    /// What was decided when the record was read holds when it is written, if the record is still the same: whether a
    /// lease is the record's does not depend on the time, and a lease that has ended stays so until it is renewed.
    async fn settle(&self, reply: Reply, decide: impl Fn(&Record, Timestamp) -> Change) -> Result<Applied, Error> {
        if reply.done != 0 {
            return Ok(Applied::Applied(reply.now));
        }
        Box::pin(self.change(reply, decide)).await
    }

    async fn change(&self, mut reply: Reply, decide: impl Fn(&Record, Timestamp) -> Change) -> Result<Applied, Error> {
        for _ in 0..CHANGES_MAX {
            let now = reply.now;
            if reply.done != 0 {
                return Ok(Applied::Applied(now));
            }
            let Some(bytes) = &reply.record else { return Ok(Applied::Lost) };
            let Found { record, header } = value::decode(self.id, bytes)?;
            reply = match decide(&record, now) {
                Change::None => return Ok(Applied::Lost),
                // A completion that was sent again finds its own outcome.
                Change::Write(next) if next == record && !self.store.0.link.waits() => {
                    return Ok(Applied::Applied(now));
                }
                Change::Write(next) => {
                    let reply = self.replace(&header, &next).await?;
                    if reply.done != 0 {
                        return Ok(Applied::Applied(now));
                    }
                    reply
                }
                Change::Remove => self.remove(&header).await?,
            };
        }
        Err(contended())
    }
}

fn contended() -> Error {
    Error::new(ErrorKind::Unavailable, "too many have changed the record at once")
}

/// How long a lease lasts, and from when on others may have the key, as scripts take them.
fn spans_of(terms: Terms) -> [Arg<'static>; 3] {
    [Arg::span(terms.lease), Arg::optional_span(terms.takeover), Arg::optional_span(terms.free)]
}
