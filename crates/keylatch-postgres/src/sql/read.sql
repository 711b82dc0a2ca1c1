-- Reads one record: always one row, with nulls if there is none.
SELECT pg_is_in_recovery() AS standby, keylatch.clock() AS clock, r.id, r.owner, r.epoch, r.attempt, r.guarantee, r.state,
       r.created_at, r.takeover_at, r.free_at, r.lease_ends_at, r.expires_at, r.released, r.after_crash, r.fingerprint,
       r.caller, r.operation, r.key, r.step_names, r.step_results, r.outcome
FROM (VALUES (true)) AS always LEFT JOIN keylatch.record AS r ON r.id = $1
