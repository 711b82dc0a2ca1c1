-- A user's orders after the one where the page before ended; from the first, if that is the empty text.
SELECT order_id, user_id, cart_id, status, total_amount, items, created_at
FROM orders
WHERE user_id = ?1 AND order_id > ?2
ORDER BY order_id
LIMIT ?3
