-- Adds the pieces of an order, product by product in ascending order, so that two orders cannot wait for each other.
INSERT INTO inventory (product_id, ordered)
SELECT i.product_id, sum(i.quantity)::bigint
FROM jsonb_to_recordset($1::jsonb) AS i (product_id text, quantity bigint)
GROUP BY i.product_id
ORDER BY i.product_id
ON CONFLICT (product_id) DO UPDATE SET ordered = inventory.ordered + excluded.ordered
