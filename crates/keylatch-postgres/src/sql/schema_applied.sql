INSERT INTO keylatch.schema_version (version, min_reader) VALUES ($1, $2)
