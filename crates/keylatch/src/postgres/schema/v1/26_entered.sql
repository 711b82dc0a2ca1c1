-- Whether another transaction has the key, without taking it: 0 none has it; 1 one has it for the same request; 2 one has
-- it for another request. See `try_enter`.
CREATE FUNCTION keylatch.entered(key_lock bigint, request_lock bigint) RETURNS smallint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(request_lock) THEN
        RETURN 1;
    END IF;
    IF NOT pg_try_advisory_xact_lock_shared(key_lock) THEN
        RETURN 2;
    END IF;
    RETURN 0;
END
$$;
