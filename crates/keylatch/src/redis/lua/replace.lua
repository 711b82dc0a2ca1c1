-- Replaces a record by the one that the machine made of it, or hands back what is there instead.
-- KEYS: record, ids, due, leases.
-- ARGV: now ('' for the server's), id, the header of the record that the machine read, the record that it made ('' if
--       the record goes), when a sweep has something to do, when the lease ends (in ms, '' for never).

-- The header has the epoch, the owner and a revision that every write raises: if it is the same, so is the record.
if redis.call('GETRANGE', KEYS[1], 0, 95) ~= ARGV[3] then
    local record = redis.call('GET', KEYS[1])
    if not record then return { now, 0 } end
    return { now, 0, record }
end

if ARGV[4] == '' then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[2])
    redis.call('ZREM', KEYS[4], ARGV[2])
    return { now, 1 }
end
redis.call('SET', KEYS[1], ARGV[4])
if ARGV[5] == '' then redis.call('ZREM', KEYS[3], ARGV[2]) else redis.call('ZADD', KEYS[3], ARGV[5], ARGV[2]) end
if ARGV[6] == '' then redis.call('ZREM', KEYS[4], ARGV[2]) else redis.call('ZADD', KEYS[4], ARGV[6], ARGV[2]) end
return { now, 1 }
