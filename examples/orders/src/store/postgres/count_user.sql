-- Adds an order to what its user has ordered.
INSERT INTO user_total (user_id, orders, total_amount)
VALUES ($1, 1, $2::numeric)
ON CONFLICT (user_id) DO UPDATE
SET orders = user_total.orders + 1, total_amount = user_total.total_amount + excluded.total_amount
