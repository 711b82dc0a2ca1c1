-- A page of running records whose lease has ended. The columns stand in the order in which rows.rs reads them.
SELECT rowid, id, caller, operation, key, fingerprint, guarantee, epoch, owner, attempt, created_at,
       takeover_at, free_at, state, lease_ends_at, expires_at, outcome, notes
FROM keylatch_record
WHERE state = 'running'     -- as the index of running records has it
  AND id > ?1               -- the last of the page before, or what comes before the first
  AND lease_ends_at <= ?2   -- now
ORDER BY id
LIMIT ?3
