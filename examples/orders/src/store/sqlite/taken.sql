-- The order that a caller has under a key.
SELECT order_id, user_id, cart_id, status, total_amount, items, created_at FROM orders WHERE caller = ?1 AND key = ?2
