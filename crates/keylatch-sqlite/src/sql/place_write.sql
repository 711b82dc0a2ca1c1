-- The place as it now is; the caller has read it in the same transaction.
INSERT OR REPLACE INTO keylatch_place (consumer, topic, partition, epoch, owner, next, last_offset, last_digest,
                                       after_crash, tried_offset, tried_attempts, changed_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
