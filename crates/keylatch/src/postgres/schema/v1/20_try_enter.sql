-- Takes the key for this transaction, without waiting: 0 it is ours until the transaction ends; 1 another transaction
-- has it, perhaps for the same request, or is about to; 2 another has it, for another request.
--
-- `key_lock` stands for the key, `request_lock` for the key and the request. Whoever has the key has both, and took the
-- request's first: so that who gets the request's and not the key's knows that the key is another request's. Who only
-- looks (`entered`) shares them for a moment, and has nothing.
CREATE FUNCTION keylatch.try_enter(key_lock bigint, request_lock bigint) RETURNS smallint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(request_lock) THEN
        RETURN 1;
    END IF;
    IF pg_try_advisory_xact_lock(key_lock) THEN
        RETURN 0;
    END IF;
    IF pg_try_advisory_xact_lock_shared(key_lock) THEN
        -- Others look, and nobody has it.
        RETURN 1;
    END IF;
    RETURN 2;
END
$$;
