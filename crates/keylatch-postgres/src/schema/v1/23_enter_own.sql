-- Takes the key for the transaction that its caller began, without waiting, and looks what is there: the record, as `read`,
-- and flag 1 if another transaction has the key. If none has, this one is marked as `enter` does.
--
-- Where the transaction has no bound for a pause between two statements, it gets this one, in milliseconds; null for none.
-- A caller that falls silent would keep the key for as long as its connection lasts.
CREATE FUNCTION keylatch.enter_own(id bytea, owner bytea, key_lock bigint, pause_ms bigint) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
DECLARE
    flag smallint := 1;
BEGIN
    IF pg_try_advisory_xact_lock(key_lock) THEN
        flag := 0;
        PERFORM set_config('keylatch_tx.owner', encode(enter_own.owner, 'hex'), true);
        IF pause_ms IS NOT NULL AND current_setting('idle_in_transaction_session_timeout') = '0' THEN
            PERFORM set_config('idle_in_transaction_session_timeout', least(pause_ms, 2147483647)::text, true);
        END IF;
    END IF;
    PERFORM keylatch.refuse_standby();
    -- With the lock in hand: whoever had it before has committed, and this statement sees it.
    RETURN QUERY
    SELECT keylatch.clock(), flag, s.*
    FROM (VALUES (true)) AS always LEFT JOIN keylatch.stored AS s ON s.id = enter_own.id;
END
$$;
