-- An event that waits.
INSERT INTO keylatch_event (id, topic, key, key_hash, value, headers, bytes, created_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
