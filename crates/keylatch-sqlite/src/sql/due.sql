-- What a sweep has to look at, the longest due first. The columns stand in the order in which rows.rs reads them. What is
-- large is not read: of an answer only whether it is there, and of notes nothing.
SELECT rowid, id, caller, operation, key, fingerprint, guarantee, epoch, owner, attempt, created_at,
       takeover_at, free_at, state, lease_ends_at, expires_at, iif(outcome IS NULL, NULL, ?4), NULL, due_at
FROM keylatch_record
WHERE due_at <= ?1                      -- now
  AND (due_at, rowid) > (?2, ?3)        -- the last that was looked at
ORDER BY due_at, rowid
