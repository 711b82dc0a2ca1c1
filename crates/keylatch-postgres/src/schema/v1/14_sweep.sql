-- Takes the answers from expired records and removes those past their tombstone, `at_most` rows, the oldest first: those
-- that were due at `due_from` or later. Returns also when the last of them was due, or null if there was none.
--
-- What is removed stays in the index until no snapshot sees it any more. A sweep that goes on from where the last one ended
-- does not read all of that again.
--
-- Safe to run on every node at once: what another transaction has locked, be it a sweep or a late owner, is passed over.
-- It never waits for a lock, so it takes part in no deadlock.
CREATE FUNCTION keylatch.sweep(
    at_most bigint, due_from bigint, OUT buried bigint, OUT removed bigint, OUT reached bigint
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    now_ms bigint := keylatch.clock();
    over   tid[];
    spent  tid[];
BEGIN
    WITH due AS (
        SELECT r.ctid AS place, r.due_at,
            coalesce(r.free_at <= now_ms AND coalesce(r.expires_at <= now_ms, true), false) AS is_over
        FROM keylatch.record AS r
        WHERE r.due_at >= due_from AND r.due_at <= now_ms
            AND (
                -- Past its tombstone; or past the time in which a retry was waited for, or for which the epoch of a key
                -- that was freed is kept.
                (r.free_at <= now_ms AND coalesce(r.expires_at <= now_ms, true))
                -- An answer past its retention.
                OR (r.state = 2 AND r.outcome IS NOT NULL AND r.expires_at <= now_ms)
            )
        ORDER BY r.due_at
        LIMIT at_most
        FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(d.place) FILTER (WHERE d.is_over), array_agg(d.place) FILTER (WHERE NOT d.is_over), max(d.due_at)
    INTO over, spent, reached
    FROM due AS d;

    -- The rows are locked, so they are still where they were found.
    DELETE FROM keylatch.record AS r WHERE r.ctid = ANY (over);
    GET DIAGNOSTICS removed = ROW_COUNT;
    UPDATE keylatch.record AS r SET outcome = NULL, due_at = r.free_at WHERE r.ctid = ANY (spent);
    GET DIAGNOSTICS buried = ROW_COUNT;
END
$$;
