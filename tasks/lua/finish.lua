-- End a request; its last record has just been written.
--
-- KEYS  1 request record   2 its stream   3 what the replica holds
-- ARGV  1 attempt that ended it   2 request id   3 status   4 seconds record and stream are kept (0: not)
--       5 seconds a stream that is not kept stands from now on
--
-- An attempt that was followed by another ends nothing: its successor may even run on the same replica.
local attempt = redis.call('HGET', KEYS[1], 'attempt')
if attempt and attempt ~= ARGV[1] then
    return 0
end
redis.call('SREM', KEYS[3], ARGV[2])
if not attempt then
    return 0
end
if tonumber(ARGV[4]) == 0 then
    redis.call('UNLINK', KEYS[1])
    redis.call('EXPIRE', KEYS[2], ARGV[5])
    return 1
end
local now = redis.call('TIME')
-- Nobody needs the body and what was kept of the answer any more, and they may be large.
redis.call('HSET', KEYS[1], 'replica', '', 'body', '', 'state', '', 'ended', ARGV[3],
    'ended_ms', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
