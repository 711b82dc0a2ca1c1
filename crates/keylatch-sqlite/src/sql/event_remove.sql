-- An operator ends its wait.
DELETE FROM keylatch_event_stuck WHERE seq = ?1 AND id = ?2 AND state <> 'held'
RETURNING topic, key, key_hash, state
