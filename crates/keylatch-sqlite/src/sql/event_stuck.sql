-- A page of the events that need an operator.
SELECT seq, id, topic, key, value, headers, created_at, state, stuck_at, reason
FROM keylatch_event_stuck WHERE seq > ?1 ORDER BY seq LIMIT ?2
