-- A record where there was none; the caller has looked in the same transaction.
INSERT INTO keylatch_record (id, caller, operation, key, fingerprint, guarantee, epoch, owner, attempt, created_at,
                             takeover_at, free_at, state, lease_ends_at, expires_at, outcome, notes, due_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
