-- Wins a key that has no record, or hands back the record that is there, for the machine to decide on.
-- KEYS: record, ids, due, leases. What is running stands in `leases`, and not in `due`.
-- ARGV: now ('' for the server's), id, head, lease, takeover, free (spans in ms, '' for never), tail.
local record = redis.call('GET', KEYS[1])
-- A record that is there is never overwritten here, whatever it is.
if record then return { now, 0, record } end

-- The first write is one that a full server refuses, before anything has changed.
redis.call('SET', KEYS[1],
    ARGV[3] .. struct.pack('>i8', now) .. instant(ARGV[5]) .. instant(ARGV[6]) .. instant(ARGV[4]) .. ARGV[7])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
redis.call('ZADD', KEYS[4], now + ARGV[4], ARGV[2])
return { now, 1 }
