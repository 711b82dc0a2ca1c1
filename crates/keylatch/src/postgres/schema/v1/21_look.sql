-- Looks what an attempt in a transaction would find: the record, as `read`; and in flag, if there is none or it may be
-- claimed, what `try_enter` says now. Run by itself it gives back at its end what it took.
CREATE FUNCTION keylatch.look(id bytea, fingerprint bytea, key_lock bigint, request_lock bigint)
RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
DECLARE
    seen keylatch.found;
BEGIN
    PERFORM keylatch.refuse_standby();
    SELECT keylatch.clock(), 0::smallint, s.* INTO seen
    FROM (VALUES (true)) AS always LEFT JOIN keylatch.stored AS s ON s.id = look.id;
    IF seen.id IS NULL
        -- Anyone may claim it.
        OR seen.free_at <= seen.clock
        -- The same request may take over from a run whose lease has ended.
        OR (seen.state = 1 AND seen.takeover_at <= seen.clock AND seen.fingerprint = look.fingerprint)
    THEN
        seen.flag := keylatch.try_enter(key_lock, request_lock);
    END IF;
    RETURN NEXT seen;
END
$$;
