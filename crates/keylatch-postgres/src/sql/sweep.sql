-- Takes the answers from expired records and removes those past their tombstone, $1 rows at most, the oldest first: those
-- that were due from $2 to $3, the time by the server's clock. Returns also when the last of them was due, or null if there
-- was none.
--
-- The time comes from outside, so that the planner knows how many rows are due. What is removed stays in the index until no
-- snapshot sees it any more: a sweep that goes on from where the last one ended does not read all of that again.
--
-- Safe to run on every node at once: what another transaction has locked, be it a sweep or a late owner, is passed over.
-- It never waits for a lock, so it takes part in no deadlock.
WITH due AS MATERIALIZED (
    SELECT r.ctid AS place, r.due_at, coalesce(r.free_at <= $3 AND coalesce(r.expires_at <= $3, true), false) AS is_over
    FROM keylatch.record AS r
    WHERE r.due_at >= $2 AND r.due_at <= $3
        AND (
            -- Past its tombstone; or past the time in which a retry was waited for, or for which the epoch of a key
            -- that was freed is kept.
            (r.free_at <= $3 AND coalesce(r.expires_at <= $3, true))
            -- An answer past its retention.
            OR (r.state = 2 AND r.outcome IS NOT NULL AND r.expires_at <= $3)
        )
    ORDER BY r.due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), removed AS (
    -- The rows are locked, so they are still where they were found.
    DELETE FROM keylatch.record AS r
    WHERE r.ctid = ANY (ARRAY(SELECT d.place FROM due AS d WHERE d.is_over))
    RETURNING r.id
), buried AS (
    UPDATE keylatch.record AS r SET outcome = NULL, due_at = r.free_at
    WHERE r.ctid = ANY (ARRAY(SELECT d.place FROM due AS d WHERE NOT d.is_over))
    RETURNING r.id
)
SELECT (SELECT count(*) FROM removed) AS removed, (SELECT count(*) FROM buried) AS buried,
       (SELECT max(d.due_at) FROM due AS d) AS reached
