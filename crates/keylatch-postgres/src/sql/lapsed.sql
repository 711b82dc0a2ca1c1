-- Reads a page of running records whose lease has ended, in the order of their identities, those after $1: at least one
-- row, with nulls if there is no record.
SELECT pg_is_in_recovery() AS standby, now.ms AS clock, page.*
FROM (SELECT keylatch.clock() AS ms OFFSET 0) AS now LEFT JOIN LATERAL (
    SELECT r.id, r.owner, r.epoch, r.attempt, r.guarantee, r.state, r.created_at, r.takeover_at, r.free_at,
           r.lease_ends_at, r.expires_at, r.released, r.after_crash, r.fingerprint, r.caller, r.operation, r.key,
           r.step_names, r.step_results, r.outcome
    FROM keylatch.record AS r
    WHERE r.state = 1 AND r.lease_ends_at <= now.ms AND r.id > $1
    ORDER BY r.id
    LIMIT $2
) AS page ON true
ORDER BY page.id
