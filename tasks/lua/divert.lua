-- Have another model answer a call than the one it was queued for.
--
-- KEYS  1 request record   2 its stream   3 list of the queue it waits in   4 list of the queue it is to wait in
-- ARGV  1 the Celery message as it was queued   2 the message for the other queue   3 the other model
-- Returns 1 when it was moved.
--
-- Only a call that no worker has, and of whose answer nothing was sent: what one build has begun, another
-- cannot go on with. What was kept of an answer that does not stream is given up. It goes to the front, since it
-- has waited already.
local record = redis.call('HMGET', KEYS[1], 'replica', 'attempt', 'ended')
if not record[2] or record[3] or (record[1] and record[1] ~= '') then
    return 0
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
for i = 1, last and #last[2] or 0, 2 do
    local name, value = last[2][i], last[2][i + 1]
    if (name == 'k' and value ~= 'started') or (name == 'after' and value ~= '') then
        return 0
    end
end
if redis.call('LREM', KEYS[3], '-1', ARGV[1]) == 0 then
    return 0 -- it is on its way to a worker
end
redis.call('HSET', KEYS[1], 'model', ARGV[3], 'list', KEYS[4], 'state', '')
redis.call('RPUSH', KEYS[4], ARGV[2])
return 1
