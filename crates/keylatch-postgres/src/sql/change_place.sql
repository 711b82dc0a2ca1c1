-- Replaces a place: see `keylatch.change_place`. With $18 also writes a dead letter, and
-- with it the events $27 and $28, unless it is there.
WITH changed AS MATERIALIZED (
    SELECT keylatch.change_place(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17
    ) AS applied
), buried AS (
    INSERT INTO keylatch.dead_letter (
        consumer, topic, partition, message_offset, digest, reason, error, attempts, trace, record, key, message, wanted,
        buried_at
    )
    SELECT $1, $2, $3, $18, $19, $20, $21, $22, $23, $24, $25, $26, false, $17
    FROM changed
    WHERE changed.applied AND $18::bigint IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING true
), published AS MATERIALIZED (
    SELECT keylatch.publish($27::text, $28::bytea) FROM buried WHERE $27::text <> ''
)
-- Only what is read is done.
SELECT applied, (SELECT count(*) FROM published) AS published FROM changed
