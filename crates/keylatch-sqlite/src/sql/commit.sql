-- The end of a batch. With synchronous=FULL it is on disk when this returns.
COMMIT
