-- One makes the table, and whoever else starts meanwhile waits and finds it made.
SELECT pg_advisory_xact_lock(hashtextextended('orders: schema', 0))
