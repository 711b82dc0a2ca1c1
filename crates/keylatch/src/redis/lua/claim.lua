-- Wins a key that has no record, or hands back the record that is there, for the machine to decide on.
-- KEYS: record, ids, due, leases. What is running stands in `leases`, and not in `due`.
-- ARGV: now ('' for the server's), id, head, lease, takeover, free (spans in ms, '' for never), tail.
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local record = redis.call('GET', KEYS[1])
-- A record that is there is never overwritten here, whatever it is.
if record then return { now, 0, record } end

-- The instant `span` ms from now as stored: 8 bytes, the end of time if it is that far.
local function instant(span)
    if span == '' then return '\128\0\0\0\0\0\0\0' end
    local at = now + span
    if at >= 9007199254740992 then return '\127\255\255\255\255\255\255\255' end
    return struct.pack('>i8', at)
end

-- The first write is one that a full server refuses, before anything has changed.
redis.call('SET', KEYS[1],
    ARGV[3] .. struct.pack('>i8', now) .. instant(ARGV[5]) .. instant(ARGV[6]) .. instant(ARGV[4]) .. ARGV[7])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
redis.call('ZADD', KEYS[4], now + ARGV[4], ARGV[2])
return { now, 1 }
