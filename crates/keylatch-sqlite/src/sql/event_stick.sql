-- Copies an event to those that need an operator; it is deleted from the others next. One that is only held (?3) must still
-- be behind a refused one. An id that does not have 16 bytes is cut or filled up with zeros: see `EventId::decode`.
INSERT INTO keylatch_event_stuck (seq, id, topic, key, key_hash, value, headers, bytes, created_at, state, stuck_at, reason)
SELECT e.seq, e.id, e.topic, e.key, e.key_hash, e.value, e.headers, e.bytes, e.created_at, ?3, ?4, ?5
FROM keylatch_event AS e
WHERE e.seq = ?1 AND (e.id = ?2 OR length(e.id) <> 16 AND substr(hex(e.id) || hex(zeroblob(16)), 1, 32) = hex(?2))
    AND (?3 <> 'held' OR EXISTS (
        SELECT 1 FROM keylatch_event_stuck AS s
        WHERE s.key_hash = e.key_hash AND s.state <> 'aside' AND s.state = 'refused' AND s.topic = e.topic AND s.key = e.key
    ))
