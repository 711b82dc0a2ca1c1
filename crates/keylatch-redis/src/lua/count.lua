#!lua flags=allow-oom
-- Counts the records of a scope, without those whose keys have expired. KEYS: the scope's records, by when they end.
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return redis.call('ZCARD', KEYS[1])
