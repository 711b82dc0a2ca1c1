-- Takes the answer from one record past its retention, or removes it past its tombstone.
-- KEYS: record, ids, due, leases.
-- ARGV: now ('' for the server's), id.
-- Returns now and 0: nothing to do, 1: buried, 2: removed, 3: of a format that this version does not know.
local header = redis.call('GETRANGE', KEYS[1], 0, 95)
if header == '' then
    -- An index without its record: someone removed that by hand.
    redis.call('ZREM', KEYS[2], ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[2])
    redis.call('ZREM', KEYS[4], ARGV[2])
    return { now, 0 }
end
if header:sub(1, 1) ~= '\1' or #header < 96 then
    -- It stays, for a later version or a person to look at, and is not in the way of others for a day.
    redis.call('ZADD', KEYS[3], 'XX', now + 86400000, ARGV[2])
    redis.call('ZADD', KEYS[4], 'XX', now + 86400000, ARGV[2])
    return { now, 3 }
end

-- From when anyone may claim the key: 8 bytes, the least number for never.
local free_stored = header:sub(79, 86)
local free = free_stored ~= '\128\0\0\0\0\0\0\0' and struct.unpack('>i8', free_stored)
-- Of a record that was freed, the epoch is kept until `ends_at`; of any other, the tombstone ends later.
local is_kept = header:sub(2, 2) ~= 'R' and struct.unpack('>i8', header, 87) > now
if free and free <= now and not is_kept then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[2])
    redis.call('ZREM', KEYS[4], ARGV[2])
    return { now, 2 }
end

-- Completed, with an answer, and past its retention.
if header:sub(2, 2) == 'C' and struct.unpack('>i8', header, 87) <= now then
    local revision = struct.pack('>I4', struct.unpack('>I4', header, 3) + 1)
    local identity = redis.call('GETRANGE', KEYS[1], 96, 95 + struct.unpack('>I2', header, 95))
    -- First a write that frees memory: after it, a full server refuses none of the others.
    redis.call('ZREM', KEYS[3], ARGV[2])
    redis.call('SET', KEYS[1], '\1T' .. revision .. header:sub(7) .. identity)
    if free then redis.call('ZADD', KEYS[3], free, ARGV[2]) end
    return { now, 1 }
end
return { now, 0 }
