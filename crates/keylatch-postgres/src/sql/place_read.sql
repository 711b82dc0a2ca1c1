-- Reads one place: always one row, with nulls if there is none.
SELECT pg_is_in_recovery() AS standby, keylatch.clock() AS clock, p.consumer, p.topic, p.partition, p.epoch, p.owner, p.next,
       p.last_offset, p.last_digest, p.after_crash, p.tried_offset, p.tried_attempts, p.changed_at
FROM (VALUES (true)) AS always
LEFT JOIN keylatch.place AS p ON p.consumer = $1 AND p.topic = $2 AND p.partition = $3
