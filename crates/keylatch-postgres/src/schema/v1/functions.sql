-- Functions for what takes several steps on the server, is done in batches, or is done in a transaction of a handler or
-- a caller. Everything else is a plain statement.
--
-- Sequential scans are off in these functions: a plan that was made while the table was small is kept as it grows.

-- The one clock of all processes: the server's, in whole milliseconds since 1970. `now()` would be the start of the
-- transaction, which may be long ago.
CREATE FUNCTION keylatch.clock() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- The instant `span` milliseconds after another: at the end of time, if it would be later than that; null for never.
CREATE FUNCTION keylatch.later(instant bigint, span bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT instant + CASE WHEN span > 9223372036854775807 - instant THEN 9223372036854775807 - instant ELSE span END
$$;

-- A row that a function returns: the server's clock, a flag (see each function), and the record, or nulls if there is none.
CREATE TYPE keylatch.found AS (
    clock         bigint,
    flag          smallint,
    id            bytea,
    owner         bytea,
    epoch         bigint,
    attempt       integer,
    guarantee     smallint,
    state         smallint,
    created_at    bigint,
    takeover_at   bigint,
    free_at       bigint,
    lease_ends_at bigint,
    expires_at    bigint,
    released      boolean,
    after_crash   boolean,
    fingerprint   bytea,
    caller        text,
    operation     text,
    key           text,
    step_names    bytea[],
    step_results  bytea[],
    outcome       bytea
);

-- Claims keys, each as one step. The arrays belong together, in ascending order of `ids`, so that two calls at once cannot
-- wait for each other.
--
-- Returns a row for each claim that made a new record, with flag 1 and `owner` alone; a row with flag 2 and `owner` alone
-- for each claim that met a lock of another transaction, and changed nothing; and, unless all made new records, the record
-- as it now is, with flag 0, for each identity. A claim whose owner is in a running record has won. If an identity has no
-- row, its record was removed meanwhile, and the caller claims again.
--
-- A lock is waited for as long as a commit of another process usually takes. If it is still there, the claims are made
-- again one by one, so that only those that meet it have to be sent again.
--
-- Each statement sees what was committed before it began (READ COMMITTED). So the statement after one that waited for
-- another process's claim sees that claim. Plans are generic: to plan for these values would take longer than to run.
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
    now_ms bigint  := keylatch.clock();
    made   bytea[] := '{}';
    fresh  bytea[];
    locked bytea[] := '{}';
    -- The claims that are made together: all, or one.
    low    integer := 1;
    high   integer := cardinality(ids);
BEGIN
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    WHILE low <= cardinality(ids) LOOP
        BEGIN
            fresh := '{}';
            IF low = high THEN
                -- For one claim this takes a little more than half as long.
                INSERT INTO keylatch.record (
                    id, owner, epoch, attempt, guarantee, state, created_at, takeover_at, free_at, lease_ends_at, due_at,
                    fingerprint, caller, operation, key
                ) VALUES (
                    ids[low], owners[low], 1, 1, guarantees[low], 1, now_ms, keylatch.later(now_ms, takeovers[low]),
                    keylatch.later(now_ms, frees[low]), keylatch.later(now_ms, leases[low]),
                    keylatch.later(now_ms, frees[low]), fingerprints[low], callers[low], operations[low], keys[low]
                )
                ON CONFLICT (id) DO NOTHING;
                IF FOUND THEN
                    fresh := owners[low:low];
                END IF;
            ELSE
                WITH inserted AS (
                    INSERT INTO keylatch.record AS r (
                        id, owner, epoch, attempt, guarantee, state, created_at, takeover_at, free_at, lease_ends_at,
                        due_at, fingerprint, caller, operation, key
                    )
                    SELECT c.id, c.owner, 1, 1, c.guarantee, 1, now_ms, keylatch.later(now_ms, c.takeover),
                           keylatch.later(now_ms, c.free), keylatch.later(now_ms, c.lease), keylatch.later(now_ms, c.free),
                           c.fingerprint, c.caller, c.operation, c.key
                    FROM unnest(
                        ids, callers, operations, keys, fingerprints, guarantees, owners, leases, takeovers, frees
                    ) AS c (id, caller, operation, key, fingerprint, guarantee, owner, lease, takeover, free)
                    ON CONFLICT (id) DO NOTHING
                    RETURNING r.owner
                )
                SELECT coalesce(array_agg(i.owner), '{}') INTO fresh FROM inserted AS i;
            END IF;
            IF cardinality(fresh) <= high - low THEN
                FOR i IN low .. high LOOP
                    UPDATE keylatch.record AS r SET
                        owner         = owners[i],
                        epoch         = r.epoch + 1,
                        -- A key that had become free begins anew; a request that takes over goes on with what it has.
                        attempt       = CASE WHEN r.free_at <= now_ms THEN 1 ELSE least(r.attempt, 2147483646) + 1 END,
                        created_at    = CASE WHEN r.free_at <= now_ms THEN now_ms ELSE r.created_at END,
                        released      = false,
                        after_crash   = CASE WHEN r.free_at <= now_ms THEN false ELSE NOT r.released END,
                        step_names    = CASE WHEN r.free_at <= now_ms THEN NULL ELSE r.step_names END,
                        step_results  = CASE WHEN r.free_at <= now_ms THEN NULL ELSE r.step_results END,
                        guarantee     = guarantees[i],
                        fingerprint   = fingerprints[i],
                        state         = 1,
                        takeover_at   = keylatch.later(now_ms, takeovers[i]),
                        free_at       = keylatch.later(now_ms, frees[i]),
                        lease_ends_at = keylatch.later(now_ms, leases[i]),
                        due_at        = keylatch.later(now_ms, frees[i]),
                        expires_at    = NULL,
                        outcome       = NULL
                    WHERE r.id = ids[i]
                        -- It is this scope's and key's record, and not one that was put in its place.
                        AND r.caller = callers[i] AND r.operation = operations[i] AND r.key = keys[i]
                        -- A claim that is sent again has what it won, and not a second time.
                        AND NOT (r.state = 1 AND r.owner = owners[i])
                        AND (
                            -- Anyone may claim it.
                            r.free_at <= now_ms
                            -- The same request may take over from a run whose lease has ended.
                            OR (r.state = 1 AND r.takeover_at <= now_ms AND r.fingerprint = fingerprints[i])
                        );
                END LOOP;
            END IF;
            made := made || fresh;
            low := high + 1;
        EXCEPTION WHEN lock_not_available THEN
            -- Nothing since BEGIN counts. If these were all, they are made again one by one.
            IF low = high THEN
                locked := array_append(locked, owners[low]);
                low := low + 1;
            END IF;
            PERFORM set_config('lock_timeout', '1ms', true);
        END;
        high := low;
    END LOOP;

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
        SELECT now_ms, 0::smallint, r.id, r.owner, r.epoch, r.attempt, r.guarantee, r.state, r.created_at, r.takeover_at,
               r.free_at, r.lease_ends_at, r.expires_at, r.released, r.after_crash, r.fingerprint, r.caller, r.operation,
               r.key, r.step_names, r.step_results, r.outcome
        FROM keylatch.record AS r
        WHERE r.id = ANY (ids);
    END IF;
END
$$;

-- Writes outcomes of running records. The arrays belong together, in ascending order of `ids`, as in `claim`.
--
-- Returns the time, and for each completion whether it holds; null for one that met a lock of another transaction, as in
-- `claim`, and changed nothing.
CREATE FUNCTION keylatch.complete(
    ids bytea[], epochs bigint[], owners bytea[], outcomes bytea[], retentions bigint[], tombstones bigint[],
    OUT clock bigint, OUT applied boolean[]
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '20ms'
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    written integer[] := '{}';
    updated integer[];
    locked  integer[] := '{}';
    low     integer   := 1;
    high    integer   := cardinality(ids);
BEGIN
    clock := keylatch.clock();
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    WHILE low <= cardinality(ids) LOOP
        BEGIN
            updated := '{}';
            IF low = high THEN
                -- For one completion this takes a little more than half as long.
                UPDATE keylatch.record AS r SET
                    state         = 2,
                    outcome       = outcomes[low],
                    expires_at    = keylatch.later(clock, retentions[low]),
                    free_at       = keylatch.later(keylatch.later(clock, retentions[low]), tombstones[low]),
                    due_at        = keylatch.later(clock, retentions[low]),
                    takeover_at   = NULL,
                    lease_ends_at = NULL,
                    released      = false,
                    after_crash   = false,
                    step_names    = NULL,
                    step_results  = NULL
                WHERE r.id = ids[low] AND r.epoch = epochs[low] AND r.owner = owners[low] AND r.state <> 2;
                IF FOUND THEN
                    updated := ARRAY[low];
                END IF;
            ELSE
                WITH done AS (
                    UPDATE keylatch.record AS r SET
                        state         = 2,
                        outcome       = c.outcome,
                        expires_at    = keylatch.later(clock, c.retention),
                        free_at       = keylatch.later(keylatch.later(clock, c.retention), c.tombstone),
                        due_at        = keylatch.later(clock, c.retention),
                        takeover_at   = NULL,
                        lease_ends_at = NULL,
                        -- The outcome takes the place of what was noted for a next attempt.
                        released      = false,
                        after_crash   = false,
                        step_names    = NULL,
                        step_results  = NULL
                    FROM unnest(ids, epochs, owners, outcomes, retentions, tombstones) WITH ORDINALITY
                        AS c (id, epoch, owner, outcome, retention, tombstone, place)
                    -- Written like this, there is only one plan: one row after the other, in the order of the arrays, by
                    -- the primary key.
                    WHERE r.id = ANY (ARRAY[c.id])
                        -- Only who won the latest claim, and only once: an outcome never changes.
                        AND r.epoch = c.epoch AND r.owner = c.owner AND r.state <> 2
                    RETURNING c.place::integer
                )
                SELECT coalesce(array_agg(d.place), '{}') INTO updated FROM done AS d;
            END IF;
            written := written || updated;
            low := high + 1;
        EXCEPTION WHEN lock_not_available THEN
            IF low = high THEN
                locked := array_append(locked, low);
                low := low + 1;
            END IF;
            PERFORM set_config('lock_timeout', '1ms', true);
        END;
        high := low;
    END LOOP;

    applied := array_fill(true, ARRAY[cardinality(ids)]);
    IF cardinality(written) = cardinality(ids) THEN
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(ids) LOOP
        -- A completion that is sent again finds its own outcome.
        applied[i] := i = ANY (written) OR EXISTS (
            SELECT FROM keylatch.record AS r
            WHERE r.id = ids[i] AND r.epoch = epochs[i] AND r.owner = owners[i] AND r.state = 2
                AND r.outcome = outcomes[i]
        );
        IF NOT applied[i] AND i = ANY (locked) THEN
            applied[i] := NULL;
        END IF;
    END LOOP;
END
$$;

-- Looks at keys before attempts in a transaction. The arrays belong together. Returns a row for each key, in their order:
-- the record, or nulls; and flag 1 if another transaction has the key.
--
-- If the flag is 0, every transaction that had the key when the call began has ended, and if it committed a record, that
-- record is in the row. Therefore the locks are tested first: a transaction holds its lock until its commit is visible,
-- and the statement after the test has its own snapshot.
CREATE FUNCTION keylatch.look(ids bytea[], key_locks bigint[]) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    -- The lock is taken, shared, and released at once, in one expression that cannot be interrupted in between. A lock of
    -- the transaction would be held until its end, and would keep others from entering.
    entered boolean[] := ARRAY(
        SELECT CASE
            WHEN pg_try_advisory_lock_shared(k.key_lock) THEN NOT pg_advisory_unlock_shared(k.key_lock)
            ELSE true
        END
        FROM unnest(key_locks) WITH ORDINALITY AS k (key_lock, place)
        ORDER BY k.place
    );
    now_ms  bigint := keylatch.clock();
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'this server is a standby';
    END IF;
    RETURN QUERY
    SELECT now_ms, c.entered::integer::smallint, r.id, r.owner, r.epoch, r.attempt, r.guarantee, r.state, r.created_at,
           r.takeover_at, r.free_at, r.lease_ends_at, r.expires_at, r.released, r.after_crash, r.fingerprint, r.caller,
           r.operation, r.key, r.step_names, r.step_results, r.outcome
    FROM unnest(ids, entered) WITH ORDINALITY AS c (id, entered, place)
    -- Written like this, there is only one plan: by the primary key, one row after the other.
    LEFT JOIN keylatch.record AS r ON r.id = ANY (ARRAY[c.id])
    ORDER BY c.place;
END
$$;

-- Takes the key for this transaction, without waiting, if nothing has changed since `look`: the record then had this epoch,
-- owner and state, or all are null if there was none. Otherwise it fails: with KL001 if another transaction has the key,
-- with KL002 if the record has changed. Both are rare, because `look` has just found the key free. They are errors and not
-- rows, because sqlx discards the rows of the message that begins a transaction.
--
-- It marks the transaction, so that the statement that writes the record can check that it runs in the same one.
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
    -- The lock is held: a transaction that had it before has ended, and this statement sees what it committed.
    SELECT r.epoch, r.owner, r.state INTO there FROM keylatch.record AS r WHERE r.id = enter.id;
    IF (there.epoch, there.owner, there.state) IS DISTINCT FROM (seen_epoch, seen_owner, seen_state) THEN
        RAISE EXCEPTION USING ERRCODE = 'KL002', MESSAGE = 'the record has changed';
    END IF;
    PERFORM set_config('keylatch_tx.owner', encode(enter.owner, 'hex'), true);
END
$$;

-- Takes the key for a transaction that the caller has begun, without waiting, and returns the record, or nulls, and flag 1
-- if another transaction has the key. If none has, the transaction is marked as by `enter`.
--
-- If the transaction has no limit for the time between two statements, it gets this one, in milliseconds; null for none. A
-- caller that stops would keep the key for as long as its connection lasts.
CREATE FUNCTION keylatch.enter_own(id bytea, owner bytea, key_lock bigint, pause_ms bigint) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path = pg_catalog
SET enable_seqscan = off
AS $$
DECLARE
    flag smallint := 1;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'this server is a standby';
    END IF;
    IF pg_try_advisory_xact_lock(key_lock) THEN
        flag := 0;
        PERFORM set_config('keylatch_tx.owner', encode(enter_own.owner, 'hex'), true);
        IF pause_ms IS NOT NULL AND current_setting('idle_in_transaction_session_timeout') = '0' THEN
            PERFORM set_config('idle_in_transaction_session_timeout', least(pause_ms, 2147483647)::text, true);
        END IF;
    END IF;
    -- The lock is held: a transaction that had it before has ended, and this statement sees what it committed.
    RETURN QUERY
    SELECT keylatch.clock(), flag, r.id, r.owner, r.epoch, r.attempt, r.guarantee, r.state, r.created_at, r.takeover_at,
           r.free_at, r.lease_ends_at, r.expires_at, r.released, r.after_crash, r.fingerprint, r.caller, r.operation, r.key,
           r.step_names, r.step_results, r.outcome
    FROM (VALUES (true)) AS always LEFT JOIN keylatch.record AS r ON r.id = enter_own.id;
END
$$;
