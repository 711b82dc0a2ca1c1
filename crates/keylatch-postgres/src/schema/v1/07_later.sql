-- The instant `span` milliseconds after another: at the end of time, if it would be later than that; null for never.
CREATE FUNCTION keylatch.later(instant bigint, span bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT instant + CASE WHEN span > 9223372036854775807 - instant THEN 9223372036854775807 - instant ELSE span END
$$;
