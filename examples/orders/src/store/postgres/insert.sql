-- Writes an order. Changes nothing if the caller has one under this key: the transaction goes on, and can say so.
INSERT INTO orders (order_id, caller, key, user_id, cart_id, status, total_amount, items, created_at)
VALUES ($1::uuid, $2, $3, $4, $5, $6, $7::numeric, $8::jsonb, timestamptz 'epoch' + $9 * interval '1 ms')
ON CONFLICT (caller, key) DO NOTHING
