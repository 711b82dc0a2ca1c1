-- The name space of everything that is Keylatch's. The migration has made sure that it may. Where it is there, nothing is
-- to be made: the right to make one is asked for even then.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE concat(nspname, '.') = 'keylatch.') THEN
        CREATE SCHEMA IF NOT EXISTS keylatch;
    END IF;
END
$$
