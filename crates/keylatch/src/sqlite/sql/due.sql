-- What a sweep has to look at, the longest due first. The columns stand in the order in which rows.rs reads them.
SELECT rowid, id, caller, operation, key, fingerprint, guarantee, epoch, owner, attempt, created_at,
       takeover_at, free_at, state, lease_ends_at, expires_at, outcome, notes
FROM keylatch_record
WHERE due_at <= ?1
ORDER BY due_at
