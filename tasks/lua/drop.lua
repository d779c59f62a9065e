-- Forget a call whose gateway has died: nobody waits for it.
--
-- KEYS  1 request record   2 its stream   3 what the replica holds
-- ARGV  1 attempt   2 request id
--
-- An attempt that was followed by another leaves it alone: it may even run on the same replica.
local attempt = redis.call('HGET', KEYS[1], 'attempt')
if attempt and attempt ~= ARGV[1] then
    return 0
end
redis.call('SREM', KEYS[3], ARGV[2])
if not attempt then
    return 0
end
redis.call('UNLINK', KEYS[1], KEYS[2])
return 1
