-- Events that cannot be published until an operator acts: after number $1, at most $2.
SELECT s.seq, s.id, s.topic, s.key, s.value, s.headers, s.created_at, s.state, s.stuck_at, s.reason
FROM keylatch.event_stuck AS s
WHERE s.seq > $1
ORDER BY s.seq
LIMIT $2
