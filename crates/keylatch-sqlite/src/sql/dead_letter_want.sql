-- Whether an operator wants the dead letter to be applied.
UPDATE keylatch_dead_letter SET wanted = ?6
WHERE consumer = ?1 AND topic = ?2 AND partition = ?3 AND message_offset = ?4 AND digest = ?5
