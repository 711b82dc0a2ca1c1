-- Whether an operator wants the dead letter to be applied; returns whether it is there.
WITH changed AS (
    UPDATE keylatch.dead_letter AS l SET wanted = $6
    WHERE l.consumer = $1 AND l.topic = $2 AND l.partition = $3 AND l.message_offset = $4 AND l.digest = $5
    RETURNING true
)
SELECT EXISTS (SELECT FROM changed)
