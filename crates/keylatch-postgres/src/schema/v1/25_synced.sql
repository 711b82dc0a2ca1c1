-- Whether the standbys that a commit waits for have everything up to a position of the log: by default all that is
-- committed here by now. Returns the position, to ask for it again.
--
-- A commit whose wait for them was cancelled can be seen here, although it is nowhere else. It needs the role
-- `pg_read_all_stats`; without it, and without synchronous standbys, nothing is ever synced.
CREATE FUNCTION keylatch.synced(INOUT log_position text, OUT synced boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
AS $$
DECLARE
    names  text := current_setting('synchronous_standby_names');
    -- "FIRST 2 (…)", "ANY 2 (…)" and "2 (…)" ask for two; a mere list of names for one.
    needed integer := coalesce(substring(names FROM '(?i)^\s*(?:first\s+|any\s+)?(\d+)\s*\('), '1')::integer;
BEGIN
    log_position := coalesce(log_position, pg_current_wal_flush_lsn()::text);
    SELECT names <> '' AND count(*) >= needed INTO synced
    FROM pg_stat_replication AS r
    WHERE r.sync_state IN ('sync', 'quorum') AND r.flush_lsn >= synced.log_position::pg_lsn;
END
$$;
