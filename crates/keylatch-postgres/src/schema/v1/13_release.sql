-- Ends a running record without an outcome. Ends: 0 it did not happen, and the epoch is kept for `keep` milliseconds; 1 the
-- same request may run again, for so long; 2 whether it happened is not known. Returns the time, null if it was lost, and -1
-- if another transaction has locked the record, so that nothing was changed: ask again.
CREATE FUNCTION keylatch.release(id bytea, epoch bigint, owner bytea, ending smallint, keep bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '20ms'
AS $$
DECLARE
    now_ms bigint := keylatch.clock();
BEGIN
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    -- In all: only who won the latest claim, and only while it runs.
    IF release.ending = 0 AND release.keep = 0 THEN
        DELETE FROM keylatch.record AS r
        WHERE r.id = release.id AND r.epoch = release.epoch AND r.owner = release.owner AND r.state = 1;
    ELSIF release.ending = 0 THEN
        UPDATE keylatch.record AS r SET
            state         = 2,
            expires_at    = keylatch.later(now_ms, release.keep),
            free_at       = now_ms,
            due_at        = keylatch.later(now_ms, release.keep),
            takeover_at   = NULL,
            lease_ends_at = NULL,
            released      = false,
            after_crash   = false,
            step_names    = NULL,
            step_results  = NULL
        WHERE r.id = release.id AND r.epoch = release.epoch AND r.owner = release.owner AND r.state = 1;
    ELSE
        UPDATE keylatch.record AS r SET
            released      = true,
            lease_ends_at = now_ms,
            takeover_at   = CASE WHEN release.ending = 1 THEN now_ms END,
            free_at       = CASE WHEN release.ending = 1 THEN keylatch.later(now_ms, release.keep) END,
            due_at        = CASE WHEN release.ending = 1 THEN keylatch.later(now_ms, release.keep) END
        WHERE r.id = release.id AND r.epoch = release.epoch AND r.owner = release.owner AND r.state = 1;
    END IF;
    IF FOUND THEN
        RETURN now_ms;
    END IF;
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    RETURN -1;
END
$$;
