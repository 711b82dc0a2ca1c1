-- Whether this role may make the schema, or what is missing in it.
SELECT CASE
    WHEN EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) THEN has_schema_privilege($1, 'CREATE')
    ELSE has_database_privilege(current_database(), 'CREATE')
END
