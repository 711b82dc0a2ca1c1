-- The events that wait, from the first; the reader stops when it has enough. It is one statement, and so sees one state.
SELECT e.seq, e.id, e.topic, e.key, e.value, e.headers, e.created_at, e.key_hash, e.bytes,
       EXISTS (
           SELECT 1 FROM keylatch_event_stuck AS s
           WHERE s.key_hash = e.key_hash AND s.state <> 'aside' AND s.state = 'refused' AND s.topic = e.topic AND s.key = e.key
       ) AS blocked
FROM keylatch_event AS e
ORDER BY e.seq
