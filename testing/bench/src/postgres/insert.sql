\set n random(1, 9000000000000000000)
INSERT INTO bare (id, fingerprint, caller, operation, key, state) VALUES (int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n), 'user-1', 'POST /api/orders', 'benchmark-of-orders-0000000000000000', 1);
