-- Takes the key for this transaction, if nothing has changed since `look`: the record there had this epoch, owner and
-- state, or all are null for none. Fails at once otherwise: KL001 or KL002 as `try_enter` says, KL003 if it has changed.
--
-- It marks the transaction, so that `finish` knows it again, and bounds what its caller may do with it: the longest
-- statement, and the longest pause between two, in milliseconds; null leaves either as it is.
CREATE FUNCTION keylatch.enter(
    id bytea, owner bytea, key_lock bigint, request_lock bigint,
    seen_epoch bigint, seen_owner bytea, seen_state smallint, statement_ms integer, pause_ms integer
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
DECLARE
    busy  smallint := keylatch.try_enter(key_lock, request_lock);
    there record;
BEGIN
    IF busy <> 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'KL00' || busy, MESSAGE = 'another transaction has the key';
    END IF;
    -- With the lock in hand: whoever had it before has committed, and this statement sees it.
    SELECT r.epoch, r.owner, r.state INTO there FROM keylatch.record AS r WHERE r.id = enter.id;
    IF (there.epoch, there.owner, there.state) IS DISTINCT FROM (seen_epoch, seen_owner, seen_state) THEN
        RAISE EXCEPTION USING ERRCODE = 'KL003', MESSAGE = 'the record has changed';
    END IF;
    PERFORM set_config('keylatch_tx.owner', encode(enter.owner, 'hex'), true);
    IF statement_ms IS NOT NULL THEN
        PERFORM set_config('statement_timeout', statement_ms::text, true);
    END IF;
    IF pause_ms IS NOT NULL THEN
        PERFORM set_config('idle_in_transaction_session_timeout', pause_ms::text, true);
    END IF;
END
$$;
