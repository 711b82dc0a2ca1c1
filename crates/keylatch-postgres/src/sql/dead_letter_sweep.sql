-- Removes dead letters of the consumer $1 that were given up more than $2 milliseconds ago and that nobody wants, $3 at
-- most; returns how many.
WITH due AS MATERIALIZED (
    SELECT l.consumer, l.topic, l.partition, l.message_offset, l.digest
    FROM keylatch.dead_letter AS l
    WHERE l.consumer = $1 AND l.buried_at < keylatch.clock() - $2 AND NOT l.wanted
    LIMIT $3
), removed AS (
    DELETE FROM keylatch.dead_letter AS l
    USING due AS d
    WHERE (l.consumer, l.topic, l.partition, l.message_offset, l.digest)
        = (d.consumer, d.topic, d.partition, d.message_offset, d.digest)
        -- Somebody may want it by now.
        AND NOT l.wanted
    RETURNING true
)
SELECT count(*) FROM removed
