-- Notes that a schema was applied.
INSERT INTO keylatch_schema (version, applied_at) VALUES (?1, ?2)
