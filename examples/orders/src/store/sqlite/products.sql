-- A page of the inventory.
SELECT product_id, ordered FROM inventory WHERE product_id > ?1 ORDER BY product_id LIMIT ?2
