-- What pgbench writes: as many bytes in a row as a record has, and the same kind of key.
CREATE TABLE bare (
    id          bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    caller      text  NOT NULL,
    operation   text  NOT NULL,
    key         text  NOT NULL,
    state       smallint NOT NULL,
    outcome     bytea
) WITH (fillfactor = 85);
-- What pgbench reads.
CREATE TABLE picked (id bytea PRIMARY KEY, outcome bytea NOT NULL);
INSERT INTO picked
SELECT int8send(n) || int8send(n) || int8send(n) || int8send(n), decode(repeat('ab', 200), 'hex')
FROM generate_series(1, 100000) AS n;
CREATE TABLE orders (
    order_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cart_id     text   NOT NULL,
    total_cents bigint NOT NULL
);
ANALYZE picked;
