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
    written bigint[] := '{}';
    locked  bigint[] := '{}';
BEGIN
    clock := keylatch.clock();
    -- What is acknowledged is on disk, also where the role or the database has been told to do without.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    BEGIN
        written := keylatch.complete_now(clock, ids, epochs, owners, outcomes, retentions, tombstones);
    EXCEPTION WHEN lock_not_available THEN
        PERFORM set_config('lock_timeout', '1ms', true);
        FOR i IN 1 .. cardinality(ids) LOOP
            BEGIN
                IF cardinality(keylatch.complete_now(
                    clock, ids[i:i], epochs[i:i], owners[i:i], outcomes[i:i], retentions[i:i], tombstones[i:i]
                )) = 1 THEN
                    written := array_append(written, i::bigint);
                END IF;
            EXCEPTION WHEN lock_not_available THEN
                locked := array_append(locked, i::bigint);
            END;
        END LOOP;
    END;
    applied := array_fill(true, ARRAY[cardinality(ids)]);
    IF cardinality(written) = cardinality(ids) THEN
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(ids) LOOP
        -- A completion that is sent again finds its own outcome. Another's was first otherwise.
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
