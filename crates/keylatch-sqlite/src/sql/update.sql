-- The next version of a record; the caller has read the one before in the same transaction. What names the
-- record never changes.
UPDATE keylatch_record
SET fingerprint = ?2, guarantee = ?3, epoch = ?4, owner = ?5, attempt = ?6, created_at = ?7, takeover_at = ?8,
    free_at = ?9, state = ?10, lease_ends_at = ?11, expires_at = ?12, outcome = ?13, notes = ?14, due_at = ?15
WHERE rowid = ?1
