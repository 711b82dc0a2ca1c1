-- The start of one unit in a batch, such as a handler's writes.
SAVEPOINT keylatch_unit
