DELETE FROM keylatch_dead_letter
WHERE consumer = ?1 AND topic = ?2 AND partition = ?3 AND message_offset = ?4 AND digest = ?5
