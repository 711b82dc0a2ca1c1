-- Writes outcomes of running records. The arrays belong together, in ascending order of `ids`, as in `claim`.
--
-- Returns the time, and for each completion whether it holds.
CREATE FUNCTION keylatch.complete(
    ids bytea[], epochs bigint[], owners bytea[], outcomes bytea[], retentions bigint[], tombstones bigint[],
    OUT clock bigint, OUT applied boolean[]
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET lock_timeout = '5s'
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    written bigint[] := '{}';
BEGIN
    clock := keylatch.clock();
    IF cardinality(ids) = 1 THEN
        -- The same as below for one alone: it takes half the time.
        UPDATE keylatch.record AS r SET
            state         = 2,
            outcome       = outcomes[1],
            expires_at    = keylatch.later(clock, retentions[1]),
            free_at       = keylatch.later(keylatch.later(clock, retentions[1]), tombstones[1]),
            due_at        = keylatch.later(clock, retentions[1]),
            takeover_at   = NULL,
            lease_ends_at = NULL,
            released      = false,
            after_crash   = false,
            step_names    = NULL,
            step_results  = NULL
        WHERE r.id = ids[1] AND r.epoch = epochs[1] AND r.owner = owners[1] AND r.state <> 2;
        IF FOUND THEN
            written := ARRAY[1];
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
            -- So written it leaves one way only: one after the other, in the order of the arrays, by the primary key.
            WHERE r.id = ANY (ARRAY[c.id])
                -- Only who won the latest claim, and only once: an outcome never changes.
                AND r.epoch = c.epoch AND r.owner = c.owner AND r.state <> 2
            RETURNING c.place
        )
        SELECT coalesce(array_agg(d.place), '{}') INTO written FROM done AS d;
    END IF;
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
    END LOOP;
END
$$;
