-- Removes the record of a run that did not happen, or hands back the record that is there.
-- KEYS: record, ids, due, leases.
-- ARGV: now ('' for the server's), id, epoch and owner.
local header = redis.call('GETRANGE', KEYS[1], 0, 95)
if header == '' then return { now, 0 } end
-- Of a format that is known, running, and of this epoch and owner; else the record stays as it is.
if header:sub(1, 2) ~= '\1R' or header:sub(7, 30) ~= ARGV[3] then
    return { now, 0, redis.call('GET', KEYS[1]) }
end

redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2])
return { now, 1 }
