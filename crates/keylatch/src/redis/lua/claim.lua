-- Wins a key that has no record, or hands back the record that is there, for the machine to decide on.
-- KEYS: record, ids, due, leases.
-- ARGV: now ('' for the server's), id, head, lease, takeover, free (spans in ms, '' for never), tail.
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local record = redis.call('GET', KEYS[1])
-- A record that is there is never overwritten here, whatever it is.
if record then return { now, 0, record } end

-- The instant `span` ms from now, as a number and as stored: 8 bytes, the end of time if it is that far.
local function instant(span)
    if span == '' then return nil, '\128\0\0\0\0\0\0\0' end
    local at = now + tonumber(span)
    if at >= 9007199254740992 then return 9223372036854775807, '\127\255\255\255\255\255\255\255' end
    return at, struct.pack('>i8', at)
end

local ends, ends_stored = instant(ARGV[4])
local _, takeover_stored = instant(ARGV[5])
local free, free_stored = instant(ARGV[6])
local created_stored = struct.pack('>i8', now)
-- The first write is one that a full server refuses, before anything has changed.
redis.call('SET', KEYS[1], ARGV[3] .. created_stored .. takeover_stored .. free_stored .. ends_stored .. ARGV[7])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
redis.call('ZADD', KEYS[4], string.format('%.0f', ends), ARGV[2])
if free then redis.call('ZADD', KEYS[3], string.format('%.0f', free), ARGV[2]) end
return { now, 1 }
