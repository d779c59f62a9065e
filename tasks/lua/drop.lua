-- Forget a call whose gateway has died: nobody waits for it.
--
-- KEYS  1 request record   2 its stream   3 what the replica holds
-- ARGV  1 attempt   2 request id
redis.call('SREM', KEYS[3], ARGV[2])
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then
    return 0
end
redis.call('UNLINK', KEYS[1], KEYS[2])
return 1
