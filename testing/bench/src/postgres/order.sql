-- The order alone.
BEGIN;
INSERT INTO orders (cart_id, total_cents) VALUES ('cart456', 2500) RETURNING order_id;
COMMIT;
