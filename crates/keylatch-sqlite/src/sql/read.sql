-- The record of one identity. The columns stand in the order in which rows.rs reads them.
SELECT rowid, id, caller, operation, key, fingerprint, guarantee, epoch, owner, attempt, created_at,
       takeover_at, free_at, state, lease_ends_at, expires_at, outcome, notes
FROM keylatch_record
WHERE id = ?1
