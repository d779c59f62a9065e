-- Queue a call again whose message is nowhere: it got lost between the queue and a worker.
--
-- KEYS  1 request record   2 list of its queue
-- ARGV  1 the Celery message   2 milliseconds since its admission before which nothing is believed lost
-- Returns 1 when it was queued again. A message that is on its way to a worker after all
-- is then there twice; the second claim is refused.
local record = redis.call('HMGET', KEYS[1], 'replica', 'attempt', 'ended', 'admitted_ms')
if not record[2] or record[3] or (record[1] and record[1] ~= '') or redis.call('LPOS', KEYS[2], ARGV[1]) then
    return 0
end
local time = redis.call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(record[4] or 0) < tonumber(ARGV[2]) then
    return 0
end
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
