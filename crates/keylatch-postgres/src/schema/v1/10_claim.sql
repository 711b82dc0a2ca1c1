-- Claims keys, each as one step. The arrays belong together, in ascending order of `ids`: so that of two calls at once
-- neither waits for what the other holds while it holds what the other waits for.
--
-- Returns a row for each claim that made a new record, with flag 1 and `owner` alone; a row with flag 2 and `owner` alone
-- for each claim that met a lock of another transaction, and changed nothing; and, unless all made new records, the record
-- as it now is, with flag 0, for each identity. A claim that finds its own owner there, running, has won. An identity
-- without a row was freed in between: ask again.
--
-- A lock is waited for as long as a commit of another process usually takes. One that is still there then is found out
-- claim by claim, and only those that meet it have to be asked again.
--
-- Each statement in here sees what was committed before it began (READ COMMITTED), so one that waited for another
-- process's claim is followed by one that sees it. Sequential scans are off, for a plan made while the table was small
-- is kept when it no longer is; and it is made once, for a plan for these values would take longer than to run it.
CREATE FUNCTION keylatch.claim(
    ids bytea[], callers text[], operations text[], keys text[], fingerprints bytea[], guarantees smallint[],
    owners bytea[], leases bigint[], takeovers bigint[], frees bigint[]
) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '20ms'
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_ms bigint := keylatch.clock();
    made   bytea[] := '{}';
    locked bytea[] := '{}';
BEGIN
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    BEGIN
        made := keylatch.claim_now(
            now_ms, ids, callers, operations, keys, fingerprints, guarantees, owners, leases, takeovers, frees
        );
    EXCEPTION WHEN lock_not_available THEN
        PERFORM set_config('lock_timeout', '1ms', true);
        FOR i IN 1 .. cardinality(ids) LOOP
            BEGIN
                made := made || keylatch.claim_now(
                    now_ms, ids[i:i], callers[i:i], operations[i:i], keys[i:i], fingerprints[i:i], guarantees[i:i],
                    owners[i:i], leases[i:i], takeovers[i:i], frees[i:i]
                );
            EXCEPTION WHEN lock_not_available THEN
                locked := array_append(locked, owners[i]);
            END;
        END LOOP;
    END;

    RETURN QUERY
    SELECT now_ms, m.flag, NULL::bytea, m.owner, NULL::bigint, NULL::integer, NULL::smallint, NULL::smallint,
           NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::boolean, NULL::boolean,
           NULL::bytea, NULL::text, NULL::text, NULL::text, NULL::bytea[], NULL::bytea[], NULL::bytea
    FROM (
        SELECT 1::smallint, owner FROM unnest(made) AS owner
        UNION ALL
        SELECT 2::smallint, owner FROM unnest(locked) AS owner
    ) AS m (flag, owner);
    IF cardinality(made) < cardinality(ids) THEN
        RETURN QUERY
        SELECT now_ms, 0::smallint, s.* FROM keylatch.stored AS s WHERE s.id = ANY (ids);
    END IF;
END
$$;
