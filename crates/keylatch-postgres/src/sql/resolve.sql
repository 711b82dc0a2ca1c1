-- Resolves a run whose outcome is unknown, for someone who is not its owner: $4 is its outcome, or null if it did not
-- happen; then the epoch is kept for $5 milliseconds. `applied` is null if another transaction has locked the record:
-- nothing was changed then, and the caller tries again.
WITH now AS MATERIALIZED (
    SELECT keylatch.clock() AS ms,
           -- What is acknowledged is on disk, also where the role or the database has been told to do without.
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', true) END
), unknown AS (
    -- Only the run that the caller looked at, and only while its outcome is unknown: the owner may be alive, and may have
    -- renewed its lease since.
    SELECT r.id FROM keylatch.record AS r, now
    WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 1
        AND r.takeover_at IS NULL AND r.lease_ends_at <= now.ms AND coalesce(r.free_at > now.ms, true)
), ours AS (
    SELECT r.id FROM keylatch.record AS r, now
    WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 1
        AND r.takeover_at IS NULL AND r.lease_ends_at <= now.ms AND coalesce(r.free_at > now.ms, true)
    FOR UPDATE OF r SKIP LOCKED
), removed AS (
    DELETE FROM keylatch.record AS r USING ours WHERE r.id = ours.id AND $4::bytea IS NULL AND $5::bigint = 0
    RETURNING r.id
), written AS (
    UPDATE keylatch.record AS r SET
        state         = 2,
        outcome       = $4,
        expires_at    = keylatch.later(now.ms, $5),
        due_at        = keylatch.later(now.ms, $5),
        -- If it did not happen, the key is free at once.
        free_at       = CASE WHEN $4 IS NULL THEN now.ms ELSE keylatch.later(keylatch.later(now.ms, $5), $6) END,
        lease_ends_at = NULL,
        released      = false,
        after_crash   = false,
        step_names    = NULL,
        step_results  = NULL
    FROM now, ours
    WHERE r.id = ours.id AND NOT ($4 IS NULL AND $5 = 0)
    RETURNING r.id
)
SELECT now.ms AS clock, CASE
    WHEN EXISTS (SELECT FROM removed) OR EXISTS (SELECT FROM written) THEN true
    -- A resolution that is sent again finds its own outcome.
    WHEN EXISTS (
        SELECT FROM keylatch.record AS r
        WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 2 AND r.outcome = $4
    ) THEN true
    WHEN NOT EXISTS (SELECT FROM unknown) THEN false
END AS applied
FROM now
