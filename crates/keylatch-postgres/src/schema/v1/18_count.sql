-- Counts the records from `low` to `high`, up to `at_most`.
CREATE FUNCTION keylatch.count(low bytea, high bytea, at_most bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
BEGIN
    PERFORM keylatch.refuse_standby();
    RETURN (
        SELECT count(*) FROM (
            SELECT FROM keylatch.record AS r WHERE r.id >= count.low AND r.id <= count.high LIMIT at_most
        ) AS counted
    );
END
$$;
