-- Takes the key for this transaction, without waiting, if nothing has changed since `look`: the record there had this
-- epoch, owner and state, or all are null for none. Fails at once otherwise: KL001 if another transaction has the key, KL002
-- if the record has changed. Both are rare, for `look` has just seen otherwise; so an error serves, which ends the
-- transaction in the same message.
--
-- It marks the transaction, so that `finish` knows it again.
CREATE FUNCTION keylatch.enter(
    id bytea, owner bytea, key_lock bigint, seen_epoch bigint, seen_owner bytea, seen_state smallint
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
DECLARE
    there record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(key_lock) THEN
        RAISE EXCEPTION USING ERRCODE = 'KL001', MESSAGE = 'another transaction has the key';
    END IF;
    -- With the lock in hand: whoever had it before has committed, and this statement sees it.
    SELECT r.epoch, r.owner, r.state INTO there FROM keylatch.record AS r WHERE r.id = enter.id;
    IF (there.epoch, there.owner, there.state) IS DISTINCT FROM (seen_epoch, seen_owner, seen_state) THEN
        RAISE EXCEPTION USING ERRCODE = 'KL002', MESSAGE = 'the record has changed';
    END IF;
    PERFORM set_config('keylatch_tx.owner', encode(enter.owner, 'hex'), true);
END
$$;
