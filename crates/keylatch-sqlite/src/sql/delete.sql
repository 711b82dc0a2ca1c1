-- Removes a record; the caller has read it in the same transaction.
DELETE FROM keylatch_record WHERE rowid = ?1
