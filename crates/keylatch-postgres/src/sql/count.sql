-- Counts the records from $1 to $2, up to $3.
SELECT pg_is_in_recovery() AS standby, count(*) AS records
FROM (SELECT FROM keylatch.record AS r WHERE r.id >= $1 AND r.id <= $2 LIMIT $3) AS counted
