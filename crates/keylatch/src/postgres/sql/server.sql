-- What a store must know of its server before it trusts it.
SELECT pg_is_in_recovery() AS standby,
       current_setting('synchronous_commit') <> 'off' AND current_setting('fsync')::boolean AS durable,
       current_setting('default_transaction_isolation') = 'read committed' AS read_committed
