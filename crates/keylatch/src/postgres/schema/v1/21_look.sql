-- Looks what attempts in a transaction would find. The arrays belong together. Returns a row for each, in their order: the
-- record, as `read`; and flag 1 if there is none or it may be claimed, and another transaction has the key at this moment.
CREATE FUNCTION keylatch.look(ids bytea[], fingerprints bytea[], key_locks bigint[]) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    seen keylatch.found;
BEGIN
    PERFORM keylatch.refuse_standby();
    FOR i IN 1 .. cardinality(ids) LOOP
        SELECT keylatch.clock(), 0::smallint, s.* INTO seen
        FROM (VALUES (true)) AS always LEFT JOIN keylatch.stored AS s ON s.id = ids[i];
        IF (
            seen.id IS NULL
            -- Anyone may claim it.
            OR seen.free_at <= seen.clock
            -- The same request may take over from a run whose lease has ended.
            OR (seen.state = 1 AND seen.takeover_at <= seen.clock AND seen.fingerprint = fingerprints[i])
        ) AND keylatch.entered(key_locks[i]) THEN
            seen.flag := 1;
        END IF;
        RETURN NEXT seen;
    END LOOP;
END
$$;
