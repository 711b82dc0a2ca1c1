-- Begins every script. The first argument of each is now, '' for the server's clock.
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The instant `span` ms from now as stored: 8 bytes, the least number for never, the end of time if it is that far.
local function instant(span)
    if span == '' then return '\128\0\0\0\0\0\0\0' end
    local at = now + span
    if at >= 9007199254740992 then return '\127\255\255\255\255\255\255\255' end
    return struct.pack('>i8', at)
end

