-- Writes the outcome of a run, or hands back the record that is there, for the machine to decide on.
-- KEYS: record, ids, due, leases.
-- ARGV: now ('' for the server's), id, epoch and owner, retention, retention and tombstone (spans in ms), outcome.
local record = redis.call('GET', KEYS[1])
if not record then return { now, 0 } end
-- Of a format that is known, running, and of this epoch and owner; else the record stays as it is.
if record:sub(1, 2) ~= '\1R' or record:sub(7, 30) ~= ARGV[3] then return { now, 0, record } end

local revision = struct.pack('>I4', struct.unpack('>I4', record, 3) + 1)
local identity_ends = 96 + struct.unpack('>I2', record, 95)
-- First a write that frees memory: after it, a full server refuses none of the others. The run has taken effect,
-- so that its record must not be lost for want of memory.
redis.call('ZREM', KEYS[4], ARGV[2])
redis.call('SET', KEYS[1], '\1C' .. revision .. record:sub(7, 70) .. '\128\0\0\0\0\0\0\0' .. instant(ARGV[5])
    .. instant(ARGV[4]) .. record:sub(95, identity_ends) .. ARGV[6])
redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[2])
return { now, 1 }
