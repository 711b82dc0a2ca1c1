-- The row as one value, so that every client can read it: see own/sent.rs, which expects these fields in this order.
SELECT record_send(ROW(
    clock, flag::bigint, id, owner, epoch, attempt::bigint, guarantee::bigint, state::bigint, created_at, takeover_at,
    free_at, lease_ends_at, expires_at, released::integer::bigint, after_crash::integer::bigint, fingerprint, caller,
    operation, key, step_names, step_results, outcome
)) AS reply
FROM keylatch.enter_own($1, $2, $3, $4)
