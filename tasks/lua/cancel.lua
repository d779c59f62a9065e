-- Take a call back, wherever it is.
--
-- KEYS  1 request record   2 its stream   3 the queue's list it was put on
-- ARGV  1 the Celery message as it was queued   2 key prefix of control streams   3 seconds a control stream lives
--       4 request id
-- Returns 1 when a worker had to be told, else 0.
--
-- A message that is in neither place is on its way between the two: its worker finds
-- no record when it claims, and drops it.
local replica = redis.call('HGET', KEYS[1], 'replica')
redis.call('DEL', KEYS[1], KEYS[2])
if replica and replica ~= '' then
    local control = ARGV[2] .. replica
    redis.call('XADD', control, 'MAXLEN', '~', '10000', '*', 'cancel', ARGV[4])
    redis.call('EXPIRE', control, ARGV[3])
    return 1
end
redis.call('LREM', KEYS[3], '1', ARGV[1])
return 0
