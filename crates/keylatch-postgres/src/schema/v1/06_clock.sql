-- The one clock of all processes: the server's, in whole milliseconds since 1970.
--
-- `now()` would be the start of the transaction, which may be long ago. The conformance suite replaces this function by
-- a clock that stands still.
CREATE FUNCTION keylatch.clock() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;
