-- Whether the standbys that a commit waits for have everything up to a position of the log ($1): by default all that is
-- committed here by now. Returns the position, to ask for it again.
--
-- A commit whose wait for them was cancelled can be seen here, although it is nowhere else. It needs the role
-- `pg_read_all_stats`; without it, and without synchronous standbys, nothing is ever synced.
WITH asked AS (
    SELECT coalesce($1::text, pg_current_wal_flush_lsn()::text) AS log_position,
           current_setting('synchronous_standby_names') AS names
)
SELECT asked.log_position,
       asked.names <> '' AND (
           SELECT count(*) FROM pg_stat_replication AS r
           WHERE r.sync_state IN ('sync', 'quorum') AND r.flush_lsn >= asked.log_position::pg_lsn
       -- "FIRST 2 (…)", "ANY 2 (…)" and "2 (…)" ask for two; a mere list of names for one.
       ) >= coalesce(substring(asked.names FROM '(?i)^\s*(?:first\s+|any\s+)?(\d+)\s*\('), '1')::integer AS synced
FROM asked
