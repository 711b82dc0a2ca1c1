-- A page of records in the order of their identities. The columns stand in the order in which rows.rs reads them.
SELECT rowid, id, caller, operation, key, fingerprint, guarantee, epoch, owner, attempt, created_at,
       takeover_at, free_at, state, lease_ends_at, expires_at, outcome, notes
FROM keylatch_record
WHERE id > ?1   -- the last of the page before, or what comes before the first
  AND id <= ?2  -- the last of the scope
ORDER BY id
LIMIT ?3
