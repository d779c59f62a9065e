-- Mark a kept call as ended; its last record has just been written.
--
-- KEYS  1 request record   2 its stream
-- ARGV  1 attempt that ended it   2 status   3 seconds both stand from now on
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then
    return 0
end
local now = redis.call('TIME')
-- Nobody needs the body and what was kept of the answer any more, and they may be large.
redis.call('HSET', KEYS[1], 'replica', '', 'body', '', 'state', '', 'ended', ARGV[2],
    'ended_ms', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
