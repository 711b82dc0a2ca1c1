-- Writes a finished record, once: at the end of the transaction that entered for it (`entered`), or by itself, if its
-- handler's writes were taken back. Where a record was seen, of this epoch and owner, that one is replaced.
--
-- Returns the time, or null if another has the record. Fails with KL004 if the transaction is not the one that entered:
-- someone has ended that one.
CREATE FUNCTION keylatch.finish(
    id bytea, caller text, operation text, key text, fingerprint bytea, guarantee smallint, owner bytea, epoch bigint,
    attempt integer, created_at bigint, outcome bytea, retention bigint, tombstone bigint,
    seen_epoch bigint, seen_owner bytea, entered boolean
) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '5s'
AS $$
DECLARE
    now_ms  bigint := keylatch.clock();
    expires bigint := keylatch.later(now_ms, retention);
BEGIN
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    IF entered AND current_setting('keylatch_tx.owner', true) IS DISTINCT FROM encode(finish.owner, 'hex') THEN
        -- The code is said twice, for diesel passes on no codes.
        RAISE EXCEPTION USING
            ERRCODE = 'KL004', HINT = 'KL004', MESSAGE = 'the transaction was ended before its record was written';
    END IF;
    IF seen_epoch IS NULL THEN
        INSERT INTO keylatch.record (
            id, owner, epoch, attempt, guarantee, state, created_at, free_at, expires_at, due_at, fingerprint, caller,
            operation, key, outcome
        ) VALUES (
            finish.id, finish.owner, finish.epoch, finish.attempt, finish.guarantee, 2, finish.created_at,
            keylatch.later(expires, tombstone), expires, expires, finish.fingerprint, finish.caller,
            finish.operation, finish.key, finish.outcome
        )
        ON CONFLICT ON CONSTRAINT record_pkey DO NOTHING;
    ELSE
        UPDATE keylatch.record AS r SET
            owner         = finish.owner,
            epoch         = finish.epoch,
            attempt       = finish.attempt,
            guarantee     = finish.guarantee,
            state         = 2,
            created_at    = finish.created_at,
            takeover_at   = NULL,
            free_at       = keylatch.later(expires, tombstone),
            lease_ends_at = NULL,
            expires_at    = expires,
            due_at        = expires,
            released      = false,
            after_crash   = false,
            fingerprint   = finish.fingerprint,
            step_names    = NULL,
            step_results  = NULL,
            outcome       = finish.outcome
        WHERE r.id = finish.id
            -- It is this scope's and key's record, and the one that was seen.
            AND r.caller = finish.caller AND r.operation = finish.operation AND r.key = finish.key
            AND r.epoch = seen_epoch AND r.owner = seen_owner
            AND (
                -- Still as claimable as it was then: by anyone,
                r.free_at <= now_ms
                -- or by the same request, from a run whose lease has ended.
                OR (r.state = 1 AND r.takeover_at <= now_ms AND r.fingerprint = finish.fingerprint)
            );
    END IF;
    IF FOUND THEN
        RETURN now_ms;
    END IF;
    RETURN NULL;
END
$$;
