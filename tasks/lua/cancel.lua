-- Take a call back, wherever it is.
--
-- KEYS  1 request record   2 its stream   3 the list of its queue
-- ARGV  1 the Celery message as it was queued   2 key prefix of control streams   3 seconds a control stream lives
--       4 request id   5 key prefix of what replicas hold
-- Returns 1 when a worker had to be told, else 0.
--
-- A message that is in neither place is on its way between the two: its worker finds
-- no record when it claims, and drops it. A call that is kept for later stays, with its
-- end written: whoever comes for it learns that it was cancelled.
local record = redis.call('HMGET', KEYS[1], 'replica', 'keep_s', 'ended', 'attempt')
if not record[4] or record[3] then
    return 0
end
local keep_s = tonumber(record[2] or 0)
if keep_s > 0 then
    local now = redis.call('TIME')
    local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
    local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
    local written = last and tonumber(string.match(last[1], '^%d+')) or 0
    for i = 1, last and #last[2] or 0, 2 do
        if last[2][i] == 'k' and (last[2][i + 1] == 'done' or last[2][i + 1] == 'failed') then
            return 0 -- it has just ended, and is about to be marked so
        end
    end
    local attempt = string.format('%.0f', math.max(tonumber(record[4]) + 1, written + 1, now_ms))
    redis.call('XADD', KEYS[2], attempt .. '-0', 'k', 'failed', 'code', 'request_cancelled',
        'message', 'The request was cancelled.')
    redis.call('HSET', KEYS[1], 'replica', '', 'body', '', 'state', '', 'attempt', attempt, 'ended', 'cancelled',
        'ended_ms', now_ms)
    redis.call('EXPIRE', KEYS[1], keep_s)
    redis.call('EXPIRE', KEYS[2], keep_s)
else
    redis.call('UNLINK', KEYS[1], KEYS[2])
end
redis.call('LREM', KEYS[3], '1', ARGV[1])
if record[1] and record[1] ~= '' then
    redis.call('SREM', ARGV[5] .. record[1], ARGV[4])
    local control = ARGV[2] .. record[1]
    -- A full Redis refuses this; the worker finds out when it next writes.
    redis.pcall('XADD', control, 'MAXLEN', '~', '10000', '*', 'cancel', ARGV[4])
    redis.call('EXPIRE', control, ARGV[3])
    return 1
end
return 0
