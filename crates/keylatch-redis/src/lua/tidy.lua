#!lua flags=allow-oom
-- Takes an identity out of the running ones, if its record does not run. KEYS: record, running. ARGV: identity.
-- Returns 1 if it did, or 0.
local state = redis.call('GETRANGE', KEYS[1], '0', '1')
-- A record of a format that is not known stays, to be found.
if state == '\2R' or state ~= '' and string.byte(state) ~= 2 then return 0 end
return redis.call('SREM', KEYS[2], ARGV[1])
