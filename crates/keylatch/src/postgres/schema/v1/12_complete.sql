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
AS $$
BEGIN
    clock := keylatch.clock();
    FOR i IN 1 .. cardinality(ids) LOOP
        UPDATE keylatch.record AS r SET
            state         = 2,
            outcome       = outcomes[i],
            expires_at    = keylatch.later(clock, retentions[i]),
            free_at       = keylatch.later(keylatch.later(clock, retentions[i]), tombstones[i]),
            due_at        = keylatch.later(clock, retentions[i]),
            takeover_at   = NULL,
            lease_ends_at = NULL,
            -- The outcome takes the place of what was noted for a next attempt.
            released      = false,
            after_crash   = false,
            request       = NULL,
            step_names    = NULL,
            step_results  = NULL
        WHERE r.id = ids[i]
            -- Only who won the latest claim, and only once: an outcome never changes.
            AND r.epoch = epochs[i] AND r.owner = owners[i] AND r.state = 1;
        -- A completion that is sent again finds its own outcome. Another's was first otherwise.
        applied[i] := FOUND OR EXISTS (
            SELECT FROM keylatch.record AS r
            WHERE r.id = ids[i] AND r.epoch = epochs[i] AND r.owner = owners[i] AND r.state = 2
                AND r.outcome = outcomes[i]
        );
    END LOOP;
END
$$;
