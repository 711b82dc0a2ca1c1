-- Removes the answers of expired records, and removes records past their tombstone: at most $1 rows, the oldest first, of
-- those that were due from $2 until $3, which is the time on the server's clock. `reached` is when the last of them was
-- due, or null if there were none.
--
-- The time is a parameter so that the planner knows how many rows are due. A removed row stays in the index until no
-- snapshot needs it: a sweep that continues where the last one ended does not read those entries again.
--
-- It can run on every node at once: rows that another transaction has locked, another sweep or a late owner, are skipped.
-- It never waits for a lock, so it takes part in no deadlock.
WITH due AS MATERIALIZED (
    SELECT r.ctid AS place, r.due_at, coalesce(r.free_at <= $3 AND coalesce(r.expires_at <= $3, true), false) AS is_over
    FROM keylatch.record AS r
    WHERE r.due_at >= $2 AND r.due_at <= $3
        AND (
            -- Past its tombstone; or past the time within which a retry was expected, or for which the epoch of a freed
            -- key is kept.
            (r.free_at <= $3 AND coalesce(r.expires_at <= $3, true))
            -- An answer past its retention.
            OR (r.state = 2 AND r.outcome IS NOT NULL AND r.expires_at <= $3)
        )
    ORDER BY r.due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), removed AS (
    -- The rows are locked, so none has moved.
    DELETE FROM keylatch.record AS r
    WHERE r.ctid = ANY (ARRAY(SELECT d.place FROM due AS d WHERE d.is_over))
    RETURNING r.id
), tombstoned AS (
    UPDATE keylatch.record AS r SET outcome = NULL, due_at = r.free_at
    WHERE r.ctid = ANY (ARRAY(SELECT d.place FROM due AS d WHERE NOT d.is_over))
    RETURNING r.id
)
SELECT (SELECT count(*) FROM removed) AS removed, (SELECT count(*) FROM tombstoned) AS tombstoned,
       (SELECT max(d.due_at) FROM due AS d) AS reached
