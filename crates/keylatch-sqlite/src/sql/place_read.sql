-- The columns stand in the order in which inbox/rows.rs reads them.
SELECT consumer, topic, partition, epoch, owner, next, last_offset, last_digest, after_crash, tried_offset,
       tried_attempts, changed_at
FROM keylatch_place
WHERE consumer = ?1 AND topic = ?2 AND partition = ?3
