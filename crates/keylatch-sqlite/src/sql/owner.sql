-- Whether a lease still holds its record: nobody has taken over, and it has not ended.
SELECT EXISTS (SELECT 1 FROM keylatch_record WHERE id = ?1 AND epoch = ?2 AND owner = ?3 AND state = 'running')
