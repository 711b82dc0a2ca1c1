#!lua
-- The same as replace.lua for a claim of a key that has a record: it begins a run, so a full server refuses it.
if redis.call('GETRANGE', KEYS[1], '0', '53') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[4], ARGV[2], ARGV[3])
return 1
