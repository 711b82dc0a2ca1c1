-- How many records a scope has, counted up to a limit on the index of identities alone.
SELECT count(*)
FROM (SELECT 1 FROM keylatch_record WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)
