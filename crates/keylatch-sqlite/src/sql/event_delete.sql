-- An event that was published.
DELETE FROM keylatch_event WHERE seq = ?1 AND id = ?2
