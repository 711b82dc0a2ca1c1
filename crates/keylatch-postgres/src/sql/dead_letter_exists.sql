SELECT EXISTS (
    SELECT FROM keylatch.dead_letter AS l
    WHERE l.consumer = $1 AND l.topic = $2 AND l.partition = $3 AND l.message_offset = $4 AND l.digest = $5
)
