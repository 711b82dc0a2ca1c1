-- The version of the schema, and the lowest that a process must know to use it; see schema_exists.sql.
SELECT coalesce(max(version), 0), coalesce(max(min_reader), 0) FROM keylatch.schema_version
