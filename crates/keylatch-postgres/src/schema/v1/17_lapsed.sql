-- Reads a page of running records whose lease has ended, in the order of their identities, those after `after`: at
-- least one row, with nulls if there is no record.
CREATE FUNCTION keylatch.lapsed(after bytea, at_most bigint) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
DECLARE
    now_ms bigint := keylatch.clock();
BEGIN
    PERFORM keylatch.refuse_standby();
    RETURN QUERY
    SELECT now_ms, 0::smallint, p.*
    FROM (VALUES (true)) AS always LEFT JOIN (
        SELECT s.* FROM keylatch.stored AS s
        WHERE s.state = 1 AND s.lease_ends_at <= now_ms AND s.id > lapsed.after
        ORDER BY s.id
        LIMIT at_most
    ) AS p ON true;
END
$$;
