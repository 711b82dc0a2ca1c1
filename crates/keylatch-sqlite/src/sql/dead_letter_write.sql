-- A dead letter, unless it is there.
INSERT INTO keylatch_dead_letter (consumer, topic, partition, message_offset, digest, reason, error, attempts, trace, record,
                             key, message, wanted, buried_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, false, ?13)
ON CONFLICT DO NOTHING
