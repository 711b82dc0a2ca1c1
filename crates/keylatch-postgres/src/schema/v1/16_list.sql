-- Reads a page of records in the order of their identities, from `low` to `high`, those after `after`: at least one row,
-- with nulls if there is no record.
CREATE FUNCTION keylatch.list(low bytea, high bytea, after bytea, at_most bigint) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
BEGIN
    PERFORM keylatch.refuse_standby();
    RETURN QUERY
    SELECT keylatch.clock(), 0::smallint, p.*
    FROM (VALUES (true)) AS always LEFT JOIN (
        SELECT s.* FROM keylatch.stored AS s
        WHERE s.id >= list.low AND s.id <= list.high AND s.id > list.after
        ORDER BY s.id
        LIMIT at_most
    ) AS p ON true;
END
$$;
