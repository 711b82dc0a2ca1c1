#!lua flags=allow-oom
-- Removes a record, if it is still the one that was read. KEYS: record. ARGV: its header. Returns 1, or 0.
if redis.call('GETRANGE', KEYS[1], '0', '53') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
