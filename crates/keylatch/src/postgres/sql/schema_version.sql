-- The version of the schema; see schema_exists.sql.
SELECT coalesce(max(version), 0) FROM keylatch.schema_version
