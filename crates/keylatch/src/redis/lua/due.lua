-- The clock, and the first identities whose score in an index has been reached.
-- KEYS: due or leases. ARGV: now ('' for the server's), how many at most.
return { now, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2]) }
