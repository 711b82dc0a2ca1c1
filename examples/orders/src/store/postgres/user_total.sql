-- What a user has ordered.
SELECT user_id, orders, total_amount::text FROM user_total WHERE user_id = $1
