-- Whether another transaction has the key whose lock is `key_lock`: that transaction holds the lock until it ends.
--
-- Asks by taking the lock, shared, and giving it back at once, in one expression: nothing can come between, so the lock does
-- not outlive it. A lock of the transaction would last until its end, and keep out whoever enters meanwhile.
CREATE FUNCTION keylatch.entered(key_lock bigint) RETURNS boolean
LANGUAGE sql VOLATILE
AS $$
    SELECT CASE
        WHEN pg_catalog.pg_try_advisory_lock_shared(key_lock) THEN NOT pg_catalog.pg_advisory_unlock_shared(key_lock)
        ELSE true
    END
$$
