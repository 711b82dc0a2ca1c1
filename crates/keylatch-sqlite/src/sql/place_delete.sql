DELETE FROM keylatch_place
WHERE consumer = ?1 AND topic = ?2 AND partition = ?3
