-- Whether the table of orders is there: then no right to make it is needed.
SELECT to_regclass('orders') IS NOT NULL
