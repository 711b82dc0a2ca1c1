-- The inbox: how far a consumer of a log has come, and the messages that it has given up.

-- One row for each consumer and partition of a topic.
CREATE TABLE keylatch.place (
    consumer       text    COLLATE "C" NOT NULL,
    topic          text    COLLATE "C" NOT NULL,
    partition      integer NOT NULL,
    -- The fencing number: one higher with every owner, and every move by an operator.
    epoch          bigint  NOT NULL,
    -- Who has it; null once it was given back.
    owner          bytea,
    -- The next offset to apply; null until the first owner has said where it begins.
    next           bigint,
    -- The last message that was passed, and its digest.
    last_offset    bigint,
    last_digest    bytea,
    -- Whether the owner before this one has not given it back.
    after_crash    boolean NOT NULL,
    -- The message that is tried by itself, and the tries that have begun.
    tried_offset   bigint,
    tried_attempts bigint,
    changed_at     bigint  NOT NULL,
    CONSTRAINT place_pkey PRIMARY KEY (consumer, topic, partition)
) WITH (
    -- There are few rows, and each has a new version with every commit. With room in its page, a version touches no
    -- index and the next reader of the page removes the old ones.
    fillfactor = 10,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = off
);

-- One row for each message that was given up, until an operator or a replay removes it.
CREATE TABLE keylatch.dead_letter (
    consumer       text    COLLATE "C" NOT NULL,
    topic          text    COLLATE "C" NOT NULL,
    partition      integer NOT NULL,
    message_offset bigint  NOT NULL,
    -- Of the message: another log may have another one at the offset.
    digest         bytea   NOT NULL,
    -- rejected, undecodable, exhausted, reused, outcome_unknown. A name that a process does not know makes the row
    -- unreadable to it.
    reason         text    NOT NULL,
    error          text    NOT NULL,
    attempts       bigint  NOT NULL,
    trace          text,
    -- The identity of the record of its id.
    record         bytea,
    key            bytea,
    -- As its consumer encodes it.
    message        bytea,
    -- Whether an operator wants it to be applied after all.
    wanted         boolean NOT NULL,
    buried_at      bigint  NOT NULL,
    CONSTRAINT dead_letter_pkey PRIMARY KEY (consumer, topic, partition, message_offset, digest)
);

-- The dead letters that are to be applied, of which there are few: owners look for them again and again.
CREATE INDEX dead_letter_wanted ON keylatch.dead_letter (consumer, topic, partition, message_offset, digest) WHERE wanted;

-- How old the dead letters of a consumer are: by choice, old ones are removed.
CREATE INDEX dead_letter_age ON keylatch.dead_letter (consumer, buried_at);

-- Makes `owner` the owner of a place, and returns the place. A repeated call changes nothing, but waits as well.
--
-- It waits for the transaction that another owner has open. The caller repeats it if that takes longer than this limit,
-- so that it can stop in between; it has its place in the queue for the lock almost all of the time.
CREATE FUNCTION keylatch.take_place(consumer text, topic text, partition integer, owner bytea) RETURNS SETOF keylatch.place
LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '1s'
AS $$
#variable_conflict use_column
BEGIN
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    RETURN QUERY
    INSERT INTO keylatch.place AS p (consumer, topic, partition, epoch, owner, after_crash, changed_at)
    VALUES (take_place.consumer, take_place.topic, take_place.partition, 1, take_place.owner, false, keylatch.clock())
    ON CONFLICT (consumer, topic, partition) DO UPDATE SET
        epoch       = CASE WHEN p.owner = excluded.owner THEN p.epoch       ELSE p.epoch + 1         END,
        after_crash = CASE WHEN p.owner = excluded.owner THEN p.after_crash ELSE p.owner IS NOT NULL END,
        changed_at  = CASE WHEN p.owner = excluded.owner THEN p.changed_at  ELSE excluded.changed_at END,
        owner       = excluded.owner
    RETURNING p.*;
END
$$;

-- Replaces a place that was read by what was made of it, and returns whether it was still as it was. `seen_epoch` is
-- null if there was none. `seen_next` and `seen_tried` count unless `any_next`.
CREATE FUNCTION keylatch.change_place(
    consumer text, topic text, partition integer, seen_epoch bigint, seen_owner bytea, any_next boolean, seen_next bigint,
    seen_tried bigint, epoch bigint, owner bytea, next bigint, last_offset bigint, last_digest bytea, after_crash boolean,
    tried_offset bigint, tried_attempts bigint, changed_at bigint
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '1s'
AS $$
#variable_conflict use_variable
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    IF seen_epoch IS NULL THEN
        INSERT INTO keylatch.place (
            consumer, topic, partition, epoch, owner, next, last_offset, last_digest, after_crash, tried_offset,
            tried_attempts, changed_at
        )
        VALUES (
            consumer, topic, partition, epoch, owner, next, last_offset, last_digest, after_crash, tried_offset,
            tried_attempts, changed_at
        )
        ON CONFLICT DO NOTHING;
    ELSE
        UPDATE keylatch.place AS p SET
            epoch          = change_place.epoch,
            owner          = change_place.owner,
            next           = change_place.next,
            last_offset    = change_place.last_offset,
            last_digest    = change_place.last_digest,
            after_crash    = change_place.after_crash,
            tried_offset   = change_place.tried_offset,
            tried_attempts = change_place.tried_attempts,
            changed_at     = change_place.changed_at
        WHERE p.consumer = change_place.consumer AND p.topic = change_place.topic
            AND p.partition = change_place.partition AND p.epoch = seen_epoch AND p.owner IS NOT DISTINCT FROM seen_owner
            AND (
                any_next
                OR p.next IS NOT DISTINCT FROM seen_next AND p.tried_attempts IS NOT DISTINCT FROM seen_tried
            );
    END IF;
    RETURN FOUND;
END
$$;

-- Locks a place for this transaction, if it has this epoch and owner and, with `step`, this next offset. Otherwise it
-- fails with KL003: an error and not a row, because sqlx discards the rows of the message that begins a transaction.
--
-- Fails with KL004 if there is a record of one of `ids`, which has the 32 bytes of each: then the caller reads them.
-- Messages are rarely known, so this saves a round trip.
--
-- It marks the transaction, as `enter` does.
CREATE FUNCTION keylatch.enter_place(
    consumer text, topic text, partition integer, epoch bigint, owner bytea, step boolean, next bigint, ids bytea
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '1s'
AS $$
DECLARE
    there record;
BEGIN
    SELECT p.epoch, p.owner, p.next INTO there
    FROM keylatch.place AS p
    WHERE p.consumer = enter_place.consumer AND p.topic = enter_place.topic AND p.partition = enter_place.partition
    FOR NO KEY UPDATE;
    IF NOT FOUND OR (there.epoch, there.owner) IS DISTINCT FROM (enter_place.epoch, enter_place.owner)
        OR step AND there.next IS DISTINCT FROM enter_place.next
    THEN
        RAISE EXCEPTION USING ERRCODE = 'KL003', MESSAGE = 'the place is not the caller''s, or has moved';
    END IF;
    IF length(ids) > 0 THEN
        PERFORM FROM keylatch.record AS r
        WHERE r.id = ANY (ARRAY(
            SELECT substring(ids FROM n * 32 + 1 FOR 32) FROM generate_series(0, length(ids) / 32 - 1) AS n
        ))
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'KL004', MESSAGE = 'one of the ids is recorded';
        END IF;
    END IF;
    PERFORM set_config('keylatch_tx.owner', encode(enter_place.owner, 'hex'), true);
END
$$;

-- The records of these identities: at least one row, with nulls if there is no record.
CREATE FUNCTION keylatch.find(ids bytea[]) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_ms bigint := keylatch.clock();
BEGIN
    RETURN QUERY
    SELECT now_ms, 0::smallint, r.id, r.owner, r.epoch, r.attempt, r.guarantee, r.state, r.created_at, r.takeover_at,
           r.free_at, r.lease_ends_at, r.expires_at, r.released, r.after_crash, r.fingerprint, r.caller, r.operation,
           r.key, r.step_names, r.step_results, r.outcome
    FROM (VALUES (true)) AS always
    LEFT JOIN keylatch.record AS r ON r.id = ANY (ids);
END
$$;

-- Ends a batch of messages: writes the records of their ids, moves the place, which the transaction has locked, removes
-- the dead letter, if there is one, and writes the events. The arrays belong together, in ascending order of `ids`, so
-- that two batches at once cannot wait for each other. `seen_epochs` and `seen_owners` are of the records that they
-- replace, null if there was none.
--
-- Returns the time as `int8send` does; null if an id has been recorded meanwhile, and then nothing may be committed;
-- and an empty value if the transaction is not the one that entered.
CREATE FUNCTION keylatch.pass(
    consumer text, topic text, partition integer, owner bytea, step boolean, next bigint, last_offset bigint,
    last_digest bytea, dead_letter_offset bigint, dead_letter_digest bytea, ids bytea[], callers text[], operations text[],
    keys text[], fingerprints bytea[], guarantees smallint[], owners bytea[], epochs bigint[], attempts integer[],
    created bigint[], outcomes bytea[], retentions bigint[], tombstones bigint[], seen_epochs bigint[],
    seen_owners bytea[], event_layout text, events bytea
) RETURNS bytea
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_ms  bigint  := keylatch.clock();
    written integer := 0;
    more    integer;
BEGIN
    IF current_setting('keylatch_tx.owner', true) IS DISTINCT FROM encode(pass.owner, 'hex') THEN
        RETURN ''::bytea;
    END IF;
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    IF cardinality(ids) > 0 THEN
        -- Without ON CONFLICT, which takes a third longer. A record that is there since the batch began is rare, and an
        -- error that means the same.
        INSERT INTO keylatch.record (
            id, caller, operation, key, fingerprint, guarantee, owner, epoch, attempt, created_at, outcome, state,
            expires_at, due_at, free_at
        )
        SELECT c.id, c.caller, c.operation, c.key, c.fingerprint, c.guarantee, c.owner, c.epoch, c.attempt, now_ms,
               c.outcome, 2, keylatch.later(now_ms, c.retention), keylatch.later(now_ms, c.retention),
               keylatch.later(keylatch.later(now_ms, c.retention), c.tombstone)
        FROM unnest(
            ids, callers, operations, keys, fingerprints, guarantees, owners, epochs, attempts, outcomes, retentions,
            tombstones, seen_epochs
        ) AS c (
            id, caller, operation, key, fingerprint, guarantee, owner, epoch, attempt, outcome, retention, tombstone,
            seen_epoch
        )
        WHERE c.seen_epoch IS NULL;
        GET DIAGNOSTICS written = ROW_COUNT;
    END IF;
    IF written < cardinality(ids) THEN
        UPDATE keylatch.record AS r SET
            fingerprint   = c.fingerprint,
            guarantee     = c.guarantee,
            owner         = c.owner,
            epoch         = c.epoch,
            attempt       = c.attempt,
            created_at    = c.created,
            outcome       = c.outcome,
            state         = 2,
            expires_at    = keylatch.later(now_ms, c.retention),
            due_at        = keylatch.later(now_ms, c.retention),
            free_at       = keylatch.later(keylatch.later(now_ms, c.retention), c.tombstone),
            takeover_at   = NULL,
            lease_ends_at = NULL,
            released      = false,
            after_crash   = false,
            step_names    = NULL,
            step_results  = NULL
        FROM unnest(
            ids, callers, operations, keys, fingerprints, guarantees, owners, epochs, attempts, created, outcomes,
            retentions, tombstones, seen_epochs, seen_owners
        ) AS c (
            id, caller, operation, key, fingerprint, guarantee, owner, epoch, attempt, created, outcome, retention,
            tombstone, seen_epoch, seen_owner
        )
        -- Written like this, there is only one plan: one row after the other, in the order of the arrays, by the
        -- primary key. The conditions are those of `finish_over.sql`.
        WHERE r.id = ANY (ARRAY[c.id])
            AND r.caller = c.caller AND r.operation = c.operation AND r.key = c.key
            AND r.epoch = c.seen_epoch AND r.owner = c.seen_owner
            AND (
                r.free_at <= now_ms
                OR (r.state = 1 AND r.takeover_at <= now_ms AND r.fingerprint = c.fingerprint)
            );
        GET DIAGNOSTICS more = ROW_COUNT;
        IF written + more < cardinality(ids) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF step THEN
        UPDATE keylatch.place AS p SET
            next           = pass.next,
            last_offset    = coalesce(pass.last_offset, p.last_offset),
            last_digest    = coalesce(pass.last_digest, p.last_digest),
            tried_offset   = CASE WHEN p.tried_offset >= pass.next THEN p.tried_offset   END,
            tried_attempts = CASE WHEN p.tried_offset >= pass.next THEN p.tried_attempts END,
            changed_at     = now_ms
        WHERE p.consumer = pass.consumer AND p.topic = pass.topic AND p.partition = pass.partition;
    END IF;
    IF dead_letter_offset IS NOT NULL THEN
        DELETE FROM keylatch.dead_letter AS l
        WHERE l.consumer = pass.consumer AND l.topic = pass.topic AND l.partition = pass.partition
            AND l.message_offset = dead_letter_offset AND l.digest = dead_letter_digest;
    END IF;
    IF event_layout <> '' THEN
        PERFORM keylatch.publish(event_layout, events);
    END IF;
    RETURN int8send(now_ms);
END
$$;
