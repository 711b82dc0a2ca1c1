-- Frees the key of a run that did not happen, or hands back the record that is there. Of the record only the epoch is
-- kept, for a while.
-- KEYS: record, ids, due, leases.
-- ARGV: now ('' for the server's), id, epoch and owner, how long the epoch is kept (in ms, 0 to remove the record).
local header = redis.call('GETRANGE', KEYS[1], 0, 95)
if header == '' then return { now, 0 } end
-- Of a format that is known, running, and of this epoch and owner; else the record stays as it is.
if header:sub(1, 2) ~= '\1R' or header:sub(7, 30) ~= ARGV[3] then
    return { now, 0, redis.call('GET', KEYS[1]) }
end

-- First a write that frees memory: after it, a full server refuses none of the others.
redis.call('ZREM', KEYS[4], ARGV[2])
if ARGV[4] == '0' then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[2])
    return { now, 1 }
end
local revision = struct.pack('>I4', struct.unpack('>I4', header, 3) + 1)
local identity = redis.call('GETRANGE', KEYS[1], 96, 95 + struct.unpack('>I2', header, 95))
redis.call('SET', KEYS[1], '\1T' .. revision .. header:sub(7, 70) .. '\128\0\0\0\0\0\0\0' .. instant(0)
    .. instant(ARGV[4]) .. header:sub(95) .. identity)
redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[2])
return { now, 1 }
