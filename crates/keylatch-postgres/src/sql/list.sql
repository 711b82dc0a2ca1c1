-- Reads a page of records in the order of their identities, from $1 to $2, those after $3: at least one row, with nulls if
-- there is no record.
SELECT pg_is_in_recovery() AS standby, keylatch.clock() AS clock, page.*
FROM (VALUES (true)) AS always LEFT JOIN (
    SELECT r.id, r.owner, r.epoch, r.attempt, r.guarantee, r.state, r.created_at, r.takeover_at, r.free_at,
           r.lease_ends_at, r.expires_at, r.released, r.after_crash, r.fingerprint, r.caller, r.operation, r.key,
           r.step_names, r.step_results, r.outcome
    FROM keylatch.record AS r
    WHERE r.id >= $1 AND r.id <= $2 AND r.id > $3
    ORDER BY r.id
    LIMIT $4
) AS page ON true
ORDER BY page.id
