-- The statements of an order in `Atomic`.
\set n random(1, 9000000000000000000)
SELECT * FROM keylatch.look(ARRAY[int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n)], ARRAY[:n::bigint]);
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT keylatch.enter(int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), int8send(:n) || int8send(:n), :n::bigint, NULL, NULL, NULL);
INSERT INTO orders (cart_id, total_cents) VALUES ('cart456', 2500) RETURNING order_id;
SELECT keylatch.finish(int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), 'user-1', 'POST /api/orders', 'benchmark-of-orders-0000000000000000', int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), 1::smallint, int8send(:n) || int8send(:n), 1, 1, 1764000000000, decode(repeat('ab', 230), 'hex'), 86400000, 604800000, NULL, NULL, true);
COMMIT;
