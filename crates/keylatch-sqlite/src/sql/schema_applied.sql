-- Notes that a schema was applied.
INSERT INTO keylatch_schema (version, min_reader, applied_at) VALUES (?1, ?2, ?3)
