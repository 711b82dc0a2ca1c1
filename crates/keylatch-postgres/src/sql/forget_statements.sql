-- Stands before `enter.sql` on a connection on which others may have left statements of the names that this transaction
-- will use.
SELECT keylatch.forget_statements()
