-- A page of the inventory.
SELECT product_id, ordered FROM inventory WHERE $1::text IS NULL OR product_id > $1 ORDER BY product_id LIMIT $2
