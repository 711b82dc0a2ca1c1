-- The writes of `claim`: makes a record for each key that has none, and takes over those that may be. Returns the owners of
-- the claims that made one. Only `claim` calls it, whose settings hold in here.
CREATE FUNCTION keylatch.claim_now(
    now_ms bigint, ids bytea[], callers text[], operations text[], keys text[], fingerprints bytea[],
    guarantees smallint[], owners bytea[], leases bigint[], takeovers bigint[], frees bigint[]
) RETURNS bytea[]
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    made bytea[] := '{}';
BEGIN
    IF cardinality(ids) = 1 THEN
        -- The same for one alone: it takes half the time.
        INSERT INTO keylatch.record (
            id, owner, epoch, attempt, guarantee, state, created_at, takeover_at, free_at, lease_ends_at, due_at,
            fingerprint, caller, operation, key
        ) VALUES (
            ids[1], owners[1], 1, 1, guarantees[1], 1, now_ms, keylatch.later(now_ms, takeovers[1]),
            keylatch.later(now_ms, frees[1]), keylatch.later(now_ms, leases[1]), keylatch.later(now_ms, frees[1]),
            fingerprints[1], callers[1], operations[1], keys[1]
        )
        ON CONFLICT (id) DO NOTHING;
        IF FOUND THEN
            RETURN owners;
        END IF;
    ELSE
        WITH fresh AS (
            INSERT INTO keylatch.record AS r (
                id, owner, epoch, attempt, guarantee, state, created_at, takeover_at, free_at, lease_ends_at, due_at,
                fingerprint, caller, operation, key
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
        SELECT coalesce(array_agg(f.owner), '{}') INTO made FROM fresh AS f;
        IF cardinality(made) = cardinality(ids) THEN
            RETURN made;
        END IF;
    END IF;

    FOR i IN 1 .. cardinality(ids) LOOP
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
    RETURN made;
END
$$;
