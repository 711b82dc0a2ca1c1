-- Renews a run's lease, or hands back the record that is there, for the machine to decide on.
-- KEYS: record, ids, due, leases.
-- ARGV: now ('' for the server's), id, epoch and owner, lease, takeover, free (spans in ms, '' for never).
local header = redis.call('GETRANGE', KEYS[1], 0, 95)
if header == '' then return { now, 0 } end
-- Of a format that is known, running, and of this epoch and owner; else the record stays as it is.
if header:sub(1, 2) ~= '\1R' or header:sub(7, 30) ~= ARGV[3] then
    return { now, 0, redis.call('GET', KEYS[1]) }
end

local revision = struct.pack('>I4', struct.unpack('>I4', header, 3) + 1)
-- First a write that frees memory: after it, a full server refuses none of the others. A run that is under way
-- keeps its lease.
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[4], now + ARGV[4], ARGV[2])
redis.call('SETRANGE', KEYS[1], 2, revision)
redis.call('SETRANGE', KEYS[1], 70, instant(ARGV[5]) .. instant(ARGV[6]) .. instant(ARGV[4]))
return { now, 1 }
