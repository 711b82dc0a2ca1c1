-- One order.
SELECT order_id, user_id, cart_id, status, total_amount, items, created_at FROM orders WHERE order_id = ?1
