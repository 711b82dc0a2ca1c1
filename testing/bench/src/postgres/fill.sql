-- A million finished records that nobody asks for, beginning with number $1.
INSERT INTO keylatch.record (
    id, owner, epoch, attempt, guarantee, state, created_at, free_at, expires_at, due_at, fingerprint, caller, operation,
    key, outcome
)
SELECT sha256(int8send(n)), decode(repeat('00', 16), 'hex'), 1, 1, 2, 2, keylatch.clock(), keylatch.clock() + 691200000,
       keylatch.clock() + 86400000, keylatch.clock() + 86400000, sha256(int8send(n)), 'somebody', 'POST /api/orders',
       'filled-' || n, decode(repeat('ab', 230), 'hex')
FROM generate_series($1::bigint, $1::bigint + 999999) AS n
