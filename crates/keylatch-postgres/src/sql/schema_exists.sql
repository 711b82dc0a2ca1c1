-- Whether there is a schema at all. It is looked for in the catalogue as it is now: to_regclass would remember, within a
-- transaction, that there was none before another made it.
SELECT EXISTS (
    SELECT FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE 'keylatch.schema_version' = concat(nspname, '.', relname)
)
