-- Changes nothing, and takes the write lock.
DELETE FROM keylatch_record WHERE rowid IS NULL
