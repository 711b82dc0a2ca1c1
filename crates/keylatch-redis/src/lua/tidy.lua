#!lua flags=allow-oom
-- Removes an identity from the set of running records, if its record does not run. KEYS: record, running. ARGV: identity.
-- Returns 1 if it did, or 0.
local state = redis.call('GETRANGE', KEYS[1], '0', '1')
-- A record of an unknown format stays in the set, so that it is found.
if state == '\2R' or state ~= '' and string.byte(state) ~= 2 then return 0 end
return redis.call('SREM', KEYS[2], ARGV[1])
