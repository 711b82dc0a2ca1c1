-- Writes events in the caller's own transaction. The reply is a `bytea`, as of all such statements.
SELECT CASE WHEN keylatch.publish($1::text, $2::bytea) THEN ''::bytea END AS reply
