//! One attempt at a claim, in a transaction: enter, the handler's statements, the record, commit.

use keylatch_core::failpoint::{self, Point};
use keylatch_core::machine::{Claim, Completion};
use keylatch_core::outbox::Events;
use keylatch_core::store::At;
use keylatch_core::tx::{Ending, Entered, Misuse, Seen, Start, Transacted};
use keylatch_core::{Epoch, Owner, Record, State};

use super::batch::Queue;
use super::error::Fault;
use super::look::LookJob;
use super::own::client::{Call, Param};
use super::rows::{COMPLETED, RUNNING, guarantee_code};
use super::transaction::Ended;
use super::tx::Postgres;
use super::{Shared, outbox, packed, span_ms};

impl Shared {
    /// See [`Transactional::look`](keylatch_core::tx::Transactional::look).
    pub(super) async fn look(&self, looks: &Queue<LookJob>, claim: &Claim) -> Result<At<Seen>, Fault> {
        let found = looks.call(LookJob::new(claim.id())).await?;
        let record = found.record()?;
        self.answerable(record.as_ref()).await?;
        Ok(At { value: Seen { record, busy: found.flag != 0 }, now: found.now })
    }

    /// See [`Transactional::transact`](keylatch_core::tx::Transactional::transact).
    pub(super) async fn attempt(
        &self,
        claim: Claim,
        seen: At<Option<Record>>,
        start: Start<Postgres>,
    ) -> Result<At<Transacted>, Fault> {
        let At { value: previous, now } = seen;
        let seen_then = |value| Ok(At { value, now });
        let entered = match Entered::new(&claim, previous, now) {
            Ok(entered) => entered,
            Err(record) => return seen_then(Transacted::Held(Some(record))),
        };
        let Ok(transaction) = self.begin(self.enter(&entered)).await? else {
            return seen_then(Transacted::Held(None));
        };
        failpoint::hit(Point::AfterClaim);
        let (ending, returned) = transaction.lend(start).await;
        failpoint::hit(Point::AfterHandlerWrite);
        let (completion, ended) = match (ending, returned) {
            (Ending::RollBack, returned) => {
                if let Some(transaction) = returned {
                    transaction.roll_back().await;
                }
                return seen_then(Transacted::RolledBack);
            }
            (_, None) => return seen_then(Transacted::Misused(Misuse::NotReturned)),
            (Ending::Commit(completion), Some(transaction)) => {
                let finish = self.finish(&entered, &completion, true, transaction.events());
                let ended = transaction.commit(finish.into_query()).await?;
                (completion, ended)
            }
            (Ending::RecordOnly(completion), Some(transaction)) => {
                let finish = self.finish(&entered, &completion, false, &Events::default());
                let ended = transaction.record_only(finish).await?;
                (completion, ended)
            }
        };
        match ended {
            Ended::Committed(now) => Ok(At { value: Transacted::Committed(entered.completed(&completion, now)), now }),
            Ended::Lost => seen_then(Transacted::Held(None)),
            Ended::Misused(misuse) => seen_then(Transacted::Misused(misuse)),
        }
    }

    /// The statement that begins the transaction and takes the key for it.
    fn enter(&self, entered: &Entered) -> String {
        let record = entered.record();
        let replaced = Replaced::by(entered);
        self.statements
            .enter
            .text()
            .replace(":id", &hex::encode(record.id().as_bytes()))
            .replace(":owner", &hex::encode(record.owner.as_bytes()))
            .replace(":key_lock", &self.key_locks.of_key(&record.id()).to_string())
            .replace(":seen_epoch", &text_or_null(replaced.0.map(|(epoch, ..)| epoch.as_u64().cast_signed())))
            .replace(
                ":seen_owner",
                &replaced
                    .0
                    .map_or_else(|| "null".to_owned(), |(_, owner, _)| format!("'{}'", hex::encode(owner.as_bytes()))),
            )
            .replace(":seen_state", &text_or_null(replaced.0.map(|(.., state)| state)))
    }

    /// The statement that writes the finished record and the events; in the transaction that has entered, or alone.
    pub(super) fn finish(
        &self,
        entered: &Entered,
        completion: &Completion,
        in_transaction: bool,
        events: &Events,
    ) -> Call {
        let bytes = |bytes: &[u8]| Param::Bytes(Some(bytes.to_vec()));
        let text = |text: &str| Param::Text(text.to_owned());
        let number = |number: i64| Param::Number(Some(number));
        let packed = packed::pack(&completion.outcome, self.options.compress_from_bytes);
        let (record, replaced) = (entered.record(), Replaced::by(entered));
        let mut params = vec![
            bytes(record.id().as_bytes()),
            text(record.scope.caller()),
            text(record.scope.operation()),
            text(record.key.as_str()),
            bytes(record.fingerprint.as_bytes()),
            number(guarantee_code(record.guarantee).into()),
            bytes(record.owner.as_bytes()),
            number(record.epoch.as_u64().cast_signed()),
            number(record.attempt.cast_signed().into()),
            number(record.created_at.as_millis()),
            Param::Bytes(Some(packed)),
            number(span_ms(completion.retention)),
            number(span_ms(completion.tombstone)),
            number(in_transaction.into()),
        ];
        params.extend(outbox::pack(events));
        let Some((epoch, owner, _)) = replaced.0 else { return self.call(&self.statements.finish_new, params) };
        params.extend([number(epoch.as_u64().cast_signed()), bytes(owner.as_bytes())]);
        self.call(&self.statements.finish_over, params)
    }
}

/// The record that an attempt has found and replaces; `None` if there was none.
#[derive(Debug, Clone, Copy)]
struct Replaced(Option<(Epoch, Owner, i16)>);

impl Replaced {
    fn by(entered: &Entered) -> Self {
        Self(entered.previous().map(|record| {
            let state = match record.state {
                State::Running { .. } => RUNNING,
                State::Completed { .. } => COMPLETED,
            };
            (record.epoch, record.owner, state)
        }))
    }
}

pub(super) fn text_or_null(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}
