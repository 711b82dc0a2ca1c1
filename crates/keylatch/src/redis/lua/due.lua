-- The clock, and the first identities whose score in an index has been reached.
-- KEYS: due or leases. ARGV: now ('' for the server's), how many at most.
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end
return { now, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2]) }
