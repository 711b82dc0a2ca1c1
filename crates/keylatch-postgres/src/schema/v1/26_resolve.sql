-- Writes what became of a run whose outcome is unknown, as someone other than its owner has found out: its outcome; or
-- null if it did not happen, and then `retention` says how long the epoch is kept. Returns the time, null if it was lost,
-- and -1 if another transaction has locked the record, so that nothing was changed: ask again.
CREATE FUNCTION keylatch.resolve(
    id bytea, epoch bigint, owner bytea, outcome bytea, retention bigint, tombstone bigint
) RETURNS bigint
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
    -- In both: only the run that the caller looked at, only while it has no outcome, and only while it is unknown. The
    -- owner may be alive, and may have renewed its lease since.
    IF resolve.outcome IS NULL AND resolve.retention = 0 THEN
        DELETE FROM keylatch.record AS r
        WHERE r.id = resolve.id AND r.epoch = resolve.epoch AND r.owner = resolve.owner AND r.state = 1
            AND r.takeover_at IS NULL AND r.lease_ends_at <= now_ms AND coalesce(r.free_at > now_ms, true);
    ELSE
        UPDATE keylatch.record AS r SET
            state         = 2,
            outcome       = resolve.outcome,
            expires_at    = keylatch.later(now_ms, retention),
            -- Free at once, if it did not happen.
            free_at       = CASE WHEN resolve.outcome IS NULL THEN now_ms
                            ELSE keylatch.later(keylatch.later(now_ms, retention), tombstone) END,
            due_at        = keylatch.later(now_ms, retention),
            lease_ends_at = NULL,
            released      = false,
            after_crash   = false,
            step_names    = NULL,
            step_results  = NULL
        WHERE r.id = resolve.id AND r.epoch = resolve.epoch AND r.owner = resolve.owner AND r.state = 1
            AND r.takeover_at IS NULL AND r.lease_ends_at <= now_ms AND coalesce(r.free_at > now_ms, true);
    END IF;
    IF FOUND OR EXISTS (
        -- A resolution that is sent again finds its own outcome.
        SELECT FROM keylatch.record AS r
        WHERE r.id = resolve.id AND r.epoch = resolve.epoch AND r.owner = resolve.owner AND r.state = 2
            AND r.outcome = resolve.outcome
    ) THEN
        RETURN now_ms;
    END IF;
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    RETURN -1;
END
$$;
