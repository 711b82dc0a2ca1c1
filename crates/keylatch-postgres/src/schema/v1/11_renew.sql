-- Renews a running record's lease, and notes a step once, by its name. Returns the time, null if it was lost, and -1
-- if another transaction has locked the record, so that nothing was changed: ask again.
CREATE FUNCTION keylatch.renew(
    id bytea, epoch bigint, owner bytea, lease bigint, takeover bigint, free bigint, step_name bytea, step_result bytea
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
    UPDATE keylatch.record AS r SET
        lease_ends_at = keylatch.later(now_ms, renew.lease),
        takeover_at   = keylatch.later(now_ms, renew.takeover),
        free_at       = keylatch.later(now_ms, renew.free),
        -- Almost always what it was: then no index is touched.
        due_at        = least(r.due_at, keylatch.later(now_ms, renew.free)),
        step_names    = CASE WHEN renew.step_name IS NULL OR renew.step_name = ANY (r.step_names)
                             THEN r.step_names ELSE array_append(r.step_names, renew.step_name) END,
        step_results  = CASE WHEN renew.step_name IS NULL OR renew.step_name = ANY (r.step_names)
                             THEN r.step_results ELSE array_append(r.step_results, renew.step_result) END
    WHERE r.id = renew.id
        -- Only who won the latest claim, and only while it runs.
        AND r.epoch = renew.epoch AND r.owner = renew.owner AND r.state = 1;
    IF FOUND THEN
        RETURN now_ms;
    END IF;
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    RETURN -1;
END
$$;
