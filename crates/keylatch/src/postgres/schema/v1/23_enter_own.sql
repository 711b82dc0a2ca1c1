-- Takes the key for the transaction that its caller began, and looks what is there: the record, as `read`, and in flag
-- what `try_enter` says. If that is 0, the transaction is marked as `enter` does.
CREATE FUNCTION keylatch.enter_own(id bytea, owner bytea, key_lock bigint, request_lock bigint)
RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
DECLARE
    busy smallint := keylatch.try_enter(key_lock, request_lock);
BEGIN
    IF busy = 0 THEN
        PERFORM set_config('keylatch_tx.owner', encode(enter_own.owner, 'hex'), true);
    END IF;
    PERFORM keylatch.refuse_standby();
    -- With the lock in hand: whoever had it before has committed, and this statement sees it.
    RETURN QUERY
    SELECT keylatch.clock(), busy, s.*
    FROM (VALUES (true)) AS always LEFT JOIN keylatch.stored AS s ON s.id = enter_own.id;
END
$$;
