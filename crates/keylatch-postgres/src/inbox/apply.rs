//! A batch of messages in one transaction: the place, the handlers' statements, records and place, commit.

use std::collections::HashMap;

use keylatch_core::failpoint::{self, Point};
use keylatch_core::inbox::{Batch, BatchEnd, DeadLetterId, Ownership, Step, Triage, Why};
use keylatch_core::machine::Completion;
use keylatch_core::outbox::Events;
use keylatch_core::store::At;
use keylatch_core::tx::{Ending, Entered, Misuse};
use keylatch_core::{Record, RecordId, Timestamp};

use crate::attempt::text_or_null;
use crate::error::Fault;
use crate::link::PgQuery;
use crate::ops::scalar;
use crate::own::client::Param;
use crate::rows::{ReplyRow, guarantee_code};
use crate::transaction::{Ended, Refused, Transaction};
use crate::tx::Postgres;
use crate::{Shared, outbox, packed, span_ms};

impl Shared {
    pub(super) async fn apply(&self, batch: Batch<Postgres>) -> Result<BatchEnd, Fault> {
        failpoint::hit(Point::BeforeClaim);
        let ids: Vec<_> = batch.claims().map(|claim| claim.id().as_bytes().to_vec()).collect();
        // The records of the ids are rarely there. So they are read only if one is, in a second attempt.
        let (first, second) = (self.enter_place(&batch, &ids), self.enter_place(&batch, &[]));
        let (begun, is_recorded) = match self.begin(first).await? {
            Err(Refused::Recorded) => (self.begin(second).await?, true),
            begun => (begun, false),
        };
        let Ok(mut transaction) = begun else {
            return Ok(BatchEnd::Lost(self.place(&batch.ownership.place).await?.value));
        };
        failpoint::hit(Point::AfterClaim);
        if let Some(letter) = &batch.letter {
            let exists = self.of_dead_letter(&self.statements.dead_letter_exists, letter);
            if !scalar::<bool>(&transaction.rows(exists).await?)? {
                transaction.roll_back().await;
                return Ok(BatchEnd::NoDeadLetter);
            }
        }
        let At { value: found, now } = if is_recorded {
            self.find(&mut transaction, ids).await?
        } else {
            // Nothing is compared with this time.
            At { value: HashMap::new(), now: Timestamp::from_millis(0) }
        };
        let triage = match Triage::of(&batch, &found, now) {
            Ok(triage) => triage,
            Err(end) => {
                transaction.roll_back().await;
                return Ok(end);
            }
        };
        let mut written = Vec::new();
        let Batch { ownership, step, letter, parts } = batch;
        for (part, triaged) in parts.into_iter().zip(triage.parts) {
            if triaged.fresh.is_empty() {
                continue;
            }
            let failed = |why| Ok(BatchEnd::Failed { at: Some(triaged.first), why });
            let (start, fresh) = (part.start, triaged.fresh);
            let (ending, returned) = transaction.lend(|loaned| start(loaned, fresh)).await;
            failpoint::hit(Point::AfterHandlerWrite);
            transaction = match (ending, returned) {
                (Ending::Commit(completion), Some(returned)) => {
                    written.extend(triaged.entered.into_iter().map(|entered| (entered, completion.clone())));
                    returned
                }
                (Ending::Commit(_), None) => return failed(Why::Misused(Misuse::NotReturned)),
                (Ending::RecordOnly(_) | Ending::RollBack, returned) => {
                    if let Some(returned) = returned {
                        returned.roll_back().await;
                    }
                    return failed(Why::Ended);
                }
            };
        }
        let pass = self.pass(&ownership, step, letter.as_ref(), written, transaction.events());
        Ok(match transaction.commit(pass).await? {
            Ended::Committed(_) => BatchEnd::Applied { known: triage.known },
            // Someone has recorded an id since it was looked for.
            Ended::Lost => BatchEnd::Held { at: 0, record: None },
            // A deferred constraint, or the part before has broken the transaction.
            Ended::Misused(misuse) => BatchEnd::Failed { at: None, why: Why::Misused(misuse) },
        })
    }

    /// The records of these identities.
    async fn find(
        &self,
        transaction: &mut Transaction<'_>,
        ids: Vec<Vec<u8>>,
    ) -> Result<At<HashMap<RecordId, Record>>, Fault> {
        let mut found = At { value: HashMap::new(), now: Timestamp::from_millis(0) };
        for row in transaction.rows(self.query(&self.statements.find).bind(ids)).await? {
            let row = ReplyRow::read(row)?;
            found.now = row.now;
            if let Some(record) = row.record()? {
                found.value.insert(record.id(), record);
            }
        }
        Ok(found)
    }

    /// The statement that begins the transaction and locks the place for it, unless one of these ids is recorded.
    fn enter_place(&self, Batch { ownership, step, .. }: &Batch<Postgres>, ids: &[Vec<u8>]) -> String {
        let Ownership { place, epoch, owner } = ownership;
        self.statements
            .enter_place
            .text()
            .replace(":consumer", &hex::encode(place.consumer().as_bytes()))
            .replace(":topic", &hex::encode(place.topic().as_bytes()))
            .replace(":partition", &place.partition().to_string())
            .replace(":epoch", &epoch.as_u64().to_string())
            .replace(":owner", &hex::encode(owner.as_bytes()))
            .replace(":step", if step.is_some() { "true" } else { "false" })
            .replace(":next", &text_or_null(step.and_then(|step| step.from)))
            .replace(":ids", &hex::encode(ids.concat()))
    }

    /// The statement that writes the records, moves the place and writes the events.
    fn pass<'q>(
        &self,
        Ownership { place, owner, .. }: &Ownership,
        step: Option<Step>,
        letter: Option<&DeadLetterId>,
        mut written: Vec<(Entered, Completion)>,
        events: &Events,
    ) -> PgQuery<'q> {
        written.sort_unstable_by_key(|(entered, _)| *entered.record().id().as_bytes());
        let records = || written.iter().map(|(entered, _)| entered.record());
        let previous = || written.iter().map(|(entered, _)| entered.previous());
        let completions = || written.iter().map(|(_, completion)| completion);
        let last = step.and_then(|step| step.last);
        let pack = |completion: &Completion| packed::pack(&completion.outcome, self.options.compress_from_bytes);
        let query = super::named(self.query(&self.statements.pass), place)
            .bind(owner.as_bytes().to_vec())
            .bind(step.is_some())
            .bind(step.map(|step| step.to))
            .bind(last.map(|last| last.offset))
            .bind(last.map(|last| last.digest.as_bytes().to_vec()))
            .bind(letter.map(|letter| letter.offset))
            .bind(letter.map(|letter| letter.digest.as_bytes().to_vec()))
            .bind(records().map(|record| record.id().as_bytes().to_vec()).collect::<Vec<_>>())
            .bind(records().map(|record| record.scope.caller().to_owned()).collect::<Vec<_>>())
            .bind(records().map(|record| record.scope.operation().to_owned()).collect::<Vec<_>>())
            .bind(records().map(|record| record.key.as_str().to_owned()).collect::<Vec<_>>())
            .bind(records().map(|record| record.fingerprint.as_bytes().to_vec()).collect::<Vec<_>>())
            .bind(records().map(|record| guarantee_code(record.guarantee)).collect::<Vec<_>>())
            .bind(records().map(|record| record.owner.as_bytes().to_vec()).collect::<Vec<_>>())
            .bind(records().map(|record| record.epoch.as_u64().cast_signed()).collect::<Vec<_>>())
            .bind(records().map(|record| record.attempt.cast_signed()).collect::<Vec<_>>())
            .bind(records().map(|record| record.created_at.as_millis()).collect::<Vec<_>>())
            .bind(completions().map(pack).collect::<Vec<_>>())
            .bind(completions().map(|completion| span_ms(completion.retention)).collect::<Vec<_>>())
            .bind(completions().map(|completion| span_ms(completion.tombstone)).collect::<Vec<_>>())
            .bind(
                previous()
                    .map(|previous| previous.map(|record| record.epoch.as_u64().cast_signed()))
                    .collect::<Vec<_>>(),
            )
            .bind(
                previous().map(|previous| previous.map(|record| record.owner.as_bytes().to_vec())).collect::<Vec<_>>(),
            );
        outbox::pack(events).into_iter().fold(query, Param::bind)
    }
}
