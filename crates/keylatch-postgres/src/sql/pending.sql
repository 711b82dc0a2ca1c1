-- The first events that wait.
SELECT p.seq, p.id, p.topic, p.key, p.value, p.headers, p.created_at, p.blocked
FROM keylatch.pending_events($1, $2, $3, $4, $5) AS p
