-- Whether the tables are there: then no right to make them is needed.
SELECT to_regclass('inventory') IS NOT NULL AND to_regclass('user_total') IS NOT NULL
