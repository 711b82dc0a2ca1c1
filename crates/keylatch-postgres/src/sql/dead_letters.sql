-- A page of dead letters in the order of their places, offsets and digests, after the dead letter $6 to $10. Each of $1
-- to $4 may be null: only those of a consumer, a topic, a partition; only those from an offset on. $5: only those that
-- are wanted. Each of $12 to $17 may be null: only those with a reason, with a text in their error, with a key, with the
-- record of an id, from a time on, before a time. At least one row, with nulls if there is no dead letter.
SELECT pg_is_in_recovery() AS standby, keylatch.clock() AS clock, page.*
FROM (VALUES (true)) AS always LEFT JOIN (
    SELECT l.consumer, l.topic, l.partition, l.message_offset, l.digest, l.reason, l.error, l.attempts, l.trace, l.record,
           l.key, l.message, l.wanted, l.buried_at
    FROM keylatch.dead_letter AS l
    WHERE (l.consumer, l.topic, l.partition, l.message_offset, l.digest) > ($6, $7, $8, $9, $10)
        AND ($1::text IS NULL OR l.consumer = $1)
        AND ($2::text IS NULL OR l.topic = $2)
        AND ($3::integer IS NULL OR l.partition = $3)
        AND ($4::bigint IS NULL OR l.message_offset >= $4)
        AND (NOT $5 OR l.wanted)
        AND ($12::text IS NULL OR l.reason = $12)
        AND ($13::text IS NULL OR strpos(l.error, $13) > 0)
        AND ($14::bytea IS NULL OR l.key = $14)
        AND ($15::bytea IS NULL OR l.record = $15)
        AND ($16::bigint IS NULL OR l.buried_at >= $16)
        AND ($17::bigint IS NULL OR l.buried_at < $17)
    ORDER BY l.consumer, l.topic, l.partition, l.message_offset, l.digest
    LIMIT $11
) AS page ON true
ORDER BY page.consumer, page.topic, page.partition, page.message_offset, page.digest
