#!lua flags=allow-oom
-- Replaces a record, if it is still the one that was read or written before. Of a run that is under way, so a full server
-- takes it, too. KEYS: record. ARGV: its header, 'PX' or 'PXAT', that many ms, the new value. Returns 1, or 0.
if redis.call('GETRANGE', KEYS[1], '0', '53') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[4], ARGV[2], ARGV[3])
return 1
