-- Ends a running record without an outcome. $4 says how: 0 it did not happen, and the epoch is kept for $5 milliseconds; 1
-- the same request may run again, for $5 milliseconds; 2 it is not known whether it happened. `applied` is null if another
-- transaction has locked the record: nothing was changed then, and the caller tries again.
WITH now AS MATERIALIZED (
    SELECT keylatch.clock() AS ms,
           -- What is acknowledged is on disk, also where the role or the database has been told to do without.
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', true) END
), ours AS (
    SELECT r.id FROM keylatch.record AS r
    -- Only who won the latest claim, and only while it runs.
    WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 1
    FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM keylatch.record AS r USING ours WHERE r.id = ours.id AND $4::smallint = 0 AND $5::bigint = 0
    RETURNING r.id
), ended AS (
    UPDATE keylatch.record AS r SET
        state         = CASE WHEN $4 = 0 THEN 2 ELSE 1 END,
        lease_ends_at = CASE WHEN $4 <> 0 THEN now.ms END,
        takeover_at   = CASE WHEN $4 = 1 THEN now.ms END,
        -- If it did not happen, the key is free at once.
        free_at       = CASE $4 WHEN 0 THEN now.ms WHEN 1 THEN keylatch.later(now.ms, $5) END,
        expires_at    = CASE WHEN $4 = 0 THEN keylatch.later(now.ms, $5) END,
        due_at        = CASE WHEN $4 <> 2 THEN keylatch.later(now.ms, $5) END,
        released      = $4 <> 0,
        after_crash   = r.after_crash AND $4 <> 0,
        step_names    = CASE WHEN $4 <> 0 THEN r.step_names END,
        step_results  = CASE WHEN $4 <> 0 THEN r.step_results END
    FROM now, ours
    WHERE r.id = ours.id AND NOT ($4 = 0 AND $5 = 0)
    RETURNING r.id
)
SELECT now.ms AS clock, CASE
    WHEN EXISTS (SELECT FROM removed) OR EXISTS (SELECT FROM ended) THEN true
    WHEN NOT EXISTS (
        SELECT FROM keylatch.record AS r WHERE r.id = $1 AND r.epoch = $2 AND r.owner = $3 AND r.state = 1
    ) THEN false
END AS applied
FROM now
