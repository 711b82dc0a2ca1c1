-- Copies the events that were held behind a refused one back to those that wait.
INSERT INTO keylatch_event (seq, id, topic, key, key_hash, value, headers, bytes, created_at)
SELECT seq, id, topic, key, key_hash, value, headers, bytes, created_at
FROM keylatch_event_stuck WHERE key_hash = ?1 AND state <> 'aside' AND state = 'held' AND topic = ?2 AND key = ?3
