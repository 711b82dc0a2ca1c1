-- A page of places in the order of their names: those of the consumer ?1, or all, after the place ?2, ?3, ?4.
SELECT consumer, topic, partition, epoch, owner, next, last_offset, last_digest, after_crash, tried_offset,
       tried_attempts, changed_at
FROM keylatch_place
WHERE (consumer, topic, partition) > (?2, ?3, ?4) AND (?1 IS NULL OR consumer = ?1)
ORDER BY consumer, topic, partition
LIMIT ?5
