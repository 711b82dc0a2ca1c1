-- A page of dead letters in the order of their places, offsets and digests, after the dead letter ?6 to ?10. Each of ?1
-- to ?4 may be NULL: only those of a consumer, a topic, a partition; only those from an offset on. ?5: only those that
-- are wanted. Each of ?12 to ?17 may be NULL: only those with a reason, with a text in their error, with a key, with
-- the record of an id, from a time on, before a time.
SELECT consumer, topic, partition, message_offset, digest, reason, error, attempts, trace, record, key, message, wanted,
       buried_at
FROM keylatch_dead_letter
WHERE (consumer, topic, partition, message_offset, digest) > (?6, ?7, ?8, ?9, ?10)
  AND (?1 IS NULL OR consumer = ?1)
  AND (?2 IS NULL OR topic = ?2)
  AND (?3 IS NULL OR partition = ?3)
  AND (?4 IS NULL OR message_offset >= ?4)
  AND (NOT ?5 OR wanted)
  AND (?12 IS NULL OR reason = ?12)
  AND (?13 IS NULL OR instr(error, ?13) > 0)
  AND (?14 IS NULL OR key = ?14)
  AND (?15 IS NULL OR record = ?15)
  AND (?16 IS NULL OR buried_at >= ?16)
  AND (?17 IS NULL OR buried_at < ?17)
ORDER BY consumer, topic, partition, message_offset, digest
LIMIT ?11
