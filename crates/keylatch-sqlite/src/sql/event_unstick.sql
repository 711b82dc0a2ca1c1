-- Copies an event back to those that wait.
INSERT INTO keylatch_event (seq, id, topic, key, key_hash, value, headers, bytes, created_at)
SELECT seq, id, topic, key, key_hash, value, headers, bytes, created_at
FROM keylatch_event_stuck WHERE seq = ?1 AND id = ?2 AND state <> 'held'
