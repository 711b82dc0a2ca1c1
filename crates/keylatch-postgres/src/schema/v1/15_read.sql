-- Reads one record: always one row, with nulls if there is none.
CREATE FUNCTION keylatch.read(id bytea) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
BEGIN
    PERFORM keylatch.refuse_standby();
    RETURN QUERY
    SELECT keylatch.clock(), 0::smallint, s.*
    FROM (VALUES (true)) AS always LEFT JOIN keylatch.stored AS s ON s.id = read.id;
END
$$;
