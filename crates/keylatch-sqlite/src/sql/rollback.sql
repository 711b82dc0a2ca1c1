-- The end of a batch that failed: nothing of it stays.
ROLLBACK
