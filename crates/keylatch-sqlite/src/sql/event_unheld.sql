-- Removes them where they were held.
DELETE FROM keylatch_event_stuck WHERE key_hash = ?1 AND state <> 'aside' AND state = 'held' AND topic = ?2 AND key = ?3
