-- The order that a caller has under a key.
SELECT order_id::text, user_id, cart_id, status, total_amount::text, items::text,
       (extract(epoch FROM created_at) * 1000)::bigint
FROM orders
WHERE caller = $1 AND key = $2
