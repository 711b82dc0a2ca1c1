-- Reads a record, and the clock.
-- KEYS: record. ARGV: now ('' for the server's).
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local record = redis.call('GET', KEYS[1])
if not record then return { now, 0 } end
return { now, 0, record }
