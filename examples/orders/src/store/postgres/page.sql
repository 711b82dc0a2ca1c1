-- A user's orders after the one where the page before ended; from the first, if that is null.
SELECT order_id::text, user_id, cart_id, status, total_amount::text, items::text,
       (extract(epoch FROM created_at) * 1000)::bigint
FROM orders
WHERE user_id = $1 AND order_id > coalesce($2::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY orders.order_id
LIMIT $3
