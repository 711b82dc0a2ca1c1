-- A page of places in the order of their names: those of the consumer $1, or all, after the place $2, $3, $4. At least one
-- row, with nulls if there is no place.
SELECT pg_is_in_recovery() AS standby, keylatch.clock() AS clock, page.*
FROM (VALUES (true)) AS always LEFT JOIN (
    SELECT p.consumer, p.topic, p.partition, p.epoch, p.owner, p.next, p.last_offset, p.last_digest, p.after_crash,
           p.tried_offset, p.tried_attempts, p.changed_at
    FROM keylatch.place AS p
    WHERE (p.consumer, p.topic, p.partition) > ($2, $3, $4) AND ($1::text IS NULL OR p.consumer = $1)
    ORDER BY p.consumer, p.topic, p.partition
    LIMIT $5
) AS page ON true
ORDER BY page.consumer, page.topic, page.partition
