SELECT to_regclass('keylatch.schema_version') IS NOT NULL
