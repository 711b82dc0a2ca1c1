-- What a store must know of its server before it trusts it.
SELECT pg_is_in_recovery() AS standby,
       -- What is acknowledged is on disk. Where `synchronous_commit` is off, the store's statements see to that.
       current_setting('fsync')::boolean AS durable,
       current_setting('default_transaction_isolation') = 'read committed' AS read_committed,
       -- A commit waits for a standby's disk, and this role may see how far the standbys are.
       current_setting('synchronous_commit') IN ('on', 'remote_apply') AS commits_wait,
       current_setting('synchronous_standby_names') <> '' AS has_standbys,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_standbys
