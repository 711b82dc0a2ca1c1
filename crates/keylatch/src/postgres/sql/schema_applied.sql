INSERT INTO keylatch.schema_version (version) VALUES ($1)
