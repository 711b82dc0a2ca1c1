#!lua flags=no-writes
-- Reads a record. KEYS: record.
-- Returns the server's clock in ms; and, if there is a record, when its key expires, in ms, and its value.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = redis.call('GET', KEYS[1])
if not record then return { now } end
return { now, redis.call('PEXPIRETIME', KEYS[1]), record }
