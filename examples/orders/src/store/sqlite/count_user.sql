-- Adds an order to what its user has ordered: the new total is given.
INSERT INTO user_total (user_id, orders, total_amount) VALUES (?1, 1, ?2)
ON CONFLICT (user_id) DO UPDATE SET orders = orders + 1, total_amount = excluded.total_amount
