-- The statements of an order in `Atomic`.
\set n random(1, 9000000000000000000)
SELECT * FROM keylatch.look(ARRAY[int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n)], ARRAY[:n::bigint]);
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT keylatch.enter(int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), int8send(:n) || int8send(:n), :n::bigint, NULL, NULL, NULL);
INSERT INTO orders (cart_id, total_cents) VALUES ('cart456', 2500) RETURNING order_id;
WITH now AS MATERIALIZED (
    SELECT keylatch.clock() AS ms,
           current_setting('keylatch_tx.owner', true) IS NOT DISTINCT FROM encode(int8send(:n) || int8send(:n), 'hex') AS ours,
           CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', true) END
), fresh AS (
    INSERT INTO keylatch.record AS r (
        id, caller, operation, key, fingerprint, guarantee, owner, epoch, attempt, created_at, outcome, state, expires_at,
        due_at, free_at
    )
    SELECT int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), 'user-1', 'POST /api/orders',
           'benchmark-of-orders-0000000000000000', int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), 1,
           int8send(:n) || int8send(:n), 1, 1, 1764000000000, decode(repeat('ab', 230), 'hex'), 2,
           keylatch.later(now.ms, 86400000), keylatch.later(now.ms, 86400000),
           keylatch.later(keylatch.later(now.ms, 86400000), 604800000)
    FROM now
    WHERE now.ours
    ON CONFLICT (id) DO NOTHING
    RETURNING r.id
)
SELECT CASE WHEN NOT now.ours THEN ''::bytea WHEN EXISTS (SELECT FROM fresh) THEN int8send(now.ms) END AS reply FROM now;
COMMIT;
