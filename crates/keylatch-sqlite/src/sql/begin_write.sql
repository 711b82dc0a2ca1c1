-- A batch of writes. IMMEDIATE takes the write lock at once, waiting for other processes if need be: a lock taken
-- later, after a read, would fail if another process had written in between.
BEGIN IMMEDIATE
