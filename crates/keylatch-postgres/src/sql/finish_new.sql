-- Writes a finished record where there was none, and the events $15 and $16 (see `keylatch.publish`): at the end of the transaction that entered for it ($14 = 1), or alone, if
-- its handler's writes were rolled back.
--
-- Replies with the time; with null if another run has the record; and with an empty value if the transaction is not the one
-- that entered, because that one was ended. Parameters are `bytea`, `text` or `bigint`, and the reply is one `bytea`, so
-- that every client can send and read them.
WITH now AS MATERIALIZED (
    SELECT keylatch.clock() AS ms,
           $14::bigint = 0 OR current_setting('keylatch_tx.owner', true) IS NOT DISTINCT FROM encode($7, 'hex') AS ours,
           -- What is acknowledged is on disk, also where the role or the database has been told to do without.
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', true) END
), fresh AS (
    INSERT INTO keylatch.record AS r (
        id, caller, operation, key, fingerprint, guarantee, owner, epoch, attempt, created_at, outcome, state, expires_at,
        due_at, free_at
    )
    SELECT $1, $2, $3, $4, $5, $6::bigint::smallint, $7, $8, $9::bigint::integer, $10, $11, 2, keylatch.later(now.ms, $12),
           keylatch.later(now.ms, $12), keylatch.later(keylatch.later(now.ms, $12), $13)
    FROM now
    WHERE now.ours
    ON CONFLICT (id) DO NOTHING
    RETURNING r.id
)
SELECT CASE
    WHEN NOT now.ours THEN ''::bytea
    WHEN NOT EXISTS (SELECT FROM fresh) THEN NULL
    WHEN $15::text = '' THEN int8send(now.ms)
    -- The events of the transaction.
    WHEN keylatch.publish($15::text, $16::bytea) THEN int8send(now.ms)
END AS reply
FROM now
