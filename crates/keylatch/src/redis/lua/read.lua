-- Reads a record, and the clock.
-- KEYS: record. ARGV: now ('' for the server's).
local record = redis.call('GET', KEYS[1])
if not record then return { now, 0 } end
return { now, 0, record }
