-- One migrates, and whoever else wants to waits and finds it done.
SELECT pg_advisory_xact_lock($1)
