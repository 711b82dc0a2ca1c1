-- Adds pieces of a product.
INSERT INTO inventory (product_id, ordered) VALUES (?1, ?2)
ON CONFLICT (product_id) DO UPDATE SET ordered = ordered + excluded.ordered
