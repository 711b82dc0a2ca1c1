-- Copies an event back to those that wait. An id that does not have 16 bytes is cut or filled up with zeros: see
-- `EventId::decode`.
INSERT INTO keylatch_event (seq, id, topic, key, key_hash, value, headers, bytes, created_at)
SELECT seq, id, topic, key, key_hash, value, headers, bytes, created_at
FROM keylatch_event_stuck
WHERE seq = ?1 AND (id = ?2 OR length(id) <> 16 AND substr(hex(id) || hex(zeroblob(16)), 1, 32) = hex(?2))
    AND state <> 'held'
