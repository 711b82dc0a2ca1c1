-- Looks what attempts in a transaction would find. The arrays belong together. Returns a row for each, in their order: the
-- record, as `read`; and flag 1 if another transaction has the key.
--
-- Without the flag, every transaction that had the key when the call began has ended, and the record that it committed, if
-- any, is in the row. So the locks are tested first: a transaction holds its lock until its commit can be seen, and the
-- statement after the test has a snapshot of its own.
CREATE FUNCTION keylatch.look(ids bytea[], key_locks bigint[]) RETURNS SETOF keylatch.found
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    entered boolean[] := ARRAY(
        SELECT keylatch.entered(k.key_lock) FROM unnest(key_locks) WITH ORDINALITY AS k (key_lock, place) ORDER BY k.place
    );
    now_ms  bigint := keylatch.clock();
BEGIN
    PERFORM keylatch.refuse_standby();
    RETURN QUERY
    SELECT now_ms, c.entered::integer::smallint, s.*
    FROM unnest(ids, entered) WITH ORDINALITY AS c (id, entered, place)
    -- So written it is read one way only: by the primary key, one after the other.
    LEFT JOIN keylatch.stored AS s ON s.id = ANY (ARRAY[c.id])
    ORDER BY c.place;
END
$$;
