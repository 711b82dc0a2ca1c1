-- Stands before `enter.sql` on a connection on which others may have left statements of the names that this transaction
-- will use.
--
-- Behind PgBouncer in transaction mode a connection is another client's in each transaction. What one has left would be
-- in the way of the next, which counts its names from the same number on. Names of PgBouncer's own are not touched.
DO $$
DECLARE
    left_here text;
BEGIN
    FOR left_here IN SELECT s.name FROM pg_prepared_statements AS s WHERE starts_with(s.name, 'sqlx_s_') LOOP
        EXECUTE format('DEALLOCATE %I', left_here);
    END LOOP;
END
$$
