-- The order that a caller has under a key.
SELECT order_id::text FROM orders WHERE caller = $1 AND key = $2
