-- Fails on a standby, as a write does by itself: what a standby has may be old.
CREATE FUNCTION keylatch.refuse_standby() RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'this server is a standby';
    END IF;
END
$$;
