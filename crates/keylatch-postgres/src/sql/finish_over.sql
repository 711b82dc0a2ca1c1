-- Writes a finished record in the place of the one that was seen, of the epoch $17 and the owner $18; see finish_new.sql.
WITH now AS MATERIALIZED (
    SELECT keylatch.clock() AS ms,
           $14::bigint = 0 OR current_setting('keylatch_tx.owner', true) IS NOT DISTINCT FROM encode($7, 'hex') AS ours,
           -- What is acknowledged is on disk, also where the role or the database has been told to do without.
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', true) END
), replaced AS (
    UPDATE keylatch.record AS r SET
        fingerprint   = $5,
        guarantee     = $6::bigint::smallint,
        owner         = $7,
        epoch         = $8,
        attempt       = $9::bigint::integer,
        created_at    = $10,
        outcome       = $11,
        state         = 2,
        expires_at    = keylatch.later(now.ms, $12),
        due_at        = keylatch.later(now.ms, $12),
        free_at       = keylatch.later(keylatch.later(now.ms, $12), $13),
        takeover_at   = NULL,
        lease_ends_at = NULL,
        released      = false,
        after_crash   = false,
        step_names    = NULL,
        step_results  = NULL
    FROM now
    WHERE now.ours AND r.id = $1
        -- It is this scope's and key's record, and the one that was seen.
        AND r.caller = $2 AND r.operation = $3 AND r.key = $4 AND r.epoch = $17 AND r.owner = $18
        AND (
            -- Still as claimable as it was then: by anyone,
            r.free_at <= now.ms
            -- or by the same request, from a run whose lease has ended.
            OR (r.state = 1 AND r.takeover_at <= now.ms AND r.fingerprint = $5)
        )
    RETURNING r.id
)
SELECT CASE
    WHEN NOT now.ours THEN ''::bytea
    WHEN NOT EXISTS (SELECT FROM replaced) THEN NULL
    WHEN $15::text = '' THEN int8send(now.ms)
    -- The events of the transaction.
    WHEN keylatch.publish($15::text, $16::bytea) THEN int8send(now.ms)
END AS reply
FROM now
