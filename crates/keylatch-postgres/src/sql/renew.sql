-- Renews a running record's lease, and notes a step once, by its name. `applied` is null if another transaction has locked
-- the record: nothing was changed then, and the caller tries again.
WITH now AS MATERIALIZED (
    SELECT keylatch.clock() AS ms,
           -- What is acknowledged is on disk, also where the role or the database has been told to do without.
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', true) END
), ours AS (
    SELECT r.id FROM keylatch.record AS r
    -- Only who won the latest claim, and only while it runs.
    WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 1
    FOR UPDATE SKIP LOCKED
), renewed AS (
    UPDATE keylatch.record AS r SET
        lease_ends_at = keylatch.later(now.ms, $4),
        takeover_at   = keylatch.later(now.ms, $5),
        free_at       = keylatch.later(now.ms, $6),
        -- Almost always what it was: then no index is touched.
        due_at        = least(r.due_at, keylatch.later(now.ms, $6)),
        step_names    = CASE WHEN $7::bytea IS NULL OR $7 = ANY (r.step_names)
                        THEN r.step_names ELSE array_append(r.step_names, $7) END,
        step_results  = CASE WHEN $7 IS NULL OR $7 = ANY (r.step_names)
                        THEN r.step_results ELSE array_append(r.step_results, $8::bytea) END
    FROM now, ours
    WHERE r.id = ours.id
    RETURNING r.id
)
SELECT now.ms AS clock, CASE
    WHEN EXISTS (SELECT FROM renewed) THEN true
    WHEN NOT EXISTS (
        SELECT FROM keylatch.record AS r WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 1
    ) THEN false
END AS applied
FROM now
