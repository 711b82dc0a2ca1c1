-- Takes the answer of a completed record away, for an operator. The tombstone keeps its own end. `applied` is null if another
-- transaction has locked the record: nothing was changed then, and the caller tries again.
WITH now AS MATERIALIZED (
    SELECT keylatch.clock() AS ms,
           -- What is acknowledged is on disk, also where the role or the database has been told to do without.
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', true) END
), answered AS (
    -- Only the record that the operator looked at, and only while it holds its key: a freed one has no answer.
    SELECT r.id FROM keylatch.record AS r, now
    WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 2
        AND r.outcome IS NOT NULL AND coalesce(r.free_at > now.ms, true)
), ours AS (
    SELECT r.id FROM keylatch.record AS r, now
    WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 2
        AND r.outcome IS NOT NULL AND coalesce(r.free_at > now.ms, true)
    FOR UPDATE OF r SKIP LOCKED
), forgotten AS (
    UPDATE keylatch.record AS r SET
        outcome    = NULL,
        expires_at = least(r.expires_at, now.ms),
        due_at     = r.free_at
    FROM now, ours
    WHERE r.id = ours.id
    RETURNING r.id
)
SELECT now.ms AS clock, CASE
    WHEN EXISTS (SELECT FROM forgotten) THEN true
    -- The answer is gone already: this was sent again, or a sweep was first.
    WHEN EXISTS (
        SELECT FROM keylatch.record AS r
        WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 2
            AND r.outcome IS NULL AND coalesce(r.free_at > now.ms, true)
    ) THEN true
    WHEN NOT EXISTS (SELECT FROM answered) THEN false
END AS applied
FROM now
