-- Accept a call: record it and queue it, or refuse it when the queue is full.
--
-- KEYS  1 request record   2 list of the model's queue at the call's priority   3 wake stream of the gateway
-- ARGV  1 longest allowed list   2 seconds the record lives   3 the Celery message
--       4 milliseconds it may wait for a worker   5 seconds the wake stream lives ("0": nobody waits)
--       6.. field, value, field, value … of the record
-- Returns the number of calls that wait already when it refused, else -1.
--
-- Safe to repeat: a gateway that lost the reply sends the same call again, and a
-- record that stands already means that the first one went through.
if redis.call('EXISTS', KEYS[1]) == 1 then
    return -1
end
local waiting = redis.call('LLEN', KEYS[2])
if waiting >= tonumber(ARGV[1]) then
    return waiting
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'admitted_ms', now_ms, 'claim_by_ms', now_ms + tonumber(ARGV[4]), 'attempt', 0,
    unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('LPUSH', KEYS[2], ARGV[3])
if ARGV[5] ~= '0' then
    -- The gateway's reader is blocked on the streams it knew when it began to wait;
    -- this makes it begin again with the new one.
    redis.call('XADD', KEYS[3], 'MAXLEN', '1', '*', 'r', '')
    redis.call('EXPIRE', KEYS[3], ARGV[5])
end
return -1
