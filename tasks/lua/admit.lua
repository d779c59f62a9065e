-- Accept a call: record it and queue it, or refuse it when the queue is full or its model cannot be had.
--
-- KEYS  1 request record   2 list of the model's queue at the call's priority   3 wake stream of the gateway
--       4 what the call's idempotency key stands for (any key when it has none)
--       5 how fast the list is served
-- ARGV  1 longest allowed list (-1: it was accepted before, whatever waits)   2 seconds the record lives   3 the Celery message
--       4 milliseconds it may wait for a worker   5 seconds the wake stream lives
--       6 digest of the idempotent request ("": it has no key)   7 seconds the key stands
--       8 key prefix of request records   9 request id   10 'hindered': it is not to be queued (what it repeats is
--       still found); 'cold': nobody serves the list, so its pace means nothing; else ''
--       11.. field, value, field, value … of the record
-- Returns {'queued'}, {'full', calls that wait already}, {'slow', calls that wait already}, {'hindered'}, {'same', id of the earlier call} or {'reused'}.
--
-- Safe to repeat: a gateway that lost the reply sends the same call again, and a
-- record that stands already means that the first one went through.
if redis.call('EXISTS', KEYS[1]) == 1 then
    return {'queued'}
end
if ARGV[6] ~= '' then
    local digest, earlier = string.match(redis.call('GET', KEYS[4]) or '', '^(%x+) (.+)$')
    -- A key whose call is forgotten (cancelled before it ran, or lost with Redis) stands for nothing.
    if earlier and redis.call('EXISTS', ARGV[8] .. earlier) == 1 then
        if digest ~= ARGV[6] then
            return {'reused'}
        end
        return {'same', earlier}
    end
end
local accepted = ARGV[1] == '-1'
if ARGV[10] == 'hindered' then
    return {'hindered'}
end
local waiting = redis.call('LLEN', KEYS[2])
if not accepted and waiting >= tonumber(ARGV[1]) then
    return {'full', waiting}
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
-- A call that would wait longer than it may is refused now rather than failed later.
-- Four fifths, since the pace is an estimate; and only once it has been watched for a while.
local pace = redis.call('HMGET', KEYS[5], 'since_ms', 'claims')
local watched_ms = pace[1] and now_ms - tonumber(pace[1]) or 0
if not accepted and ARGV[10] ~= 'cold' and watched_ms >= 5000 and waiting > 0 then
    local wait_ms = (waiting + 1) * watched_ms / (tonumber(pace[2]) + 1)
    if wait_ms > 0.8 * tonumber(ARGV[4]) then
        return {'slow', waiting}
    end
end
redis.call('HSET', KEYS[1], 'admitted_ms', now_ms, 'claim_by_ms', now_ms + tonumber(ARGV[4]),
    'attempt', 0, 'tries', 0, 'deaths', 0, 'migrations', 0, 'list', KEYS[2], unpack(ARGV, 11))
redis.call('EXPIRE', KEYS[1], ARGV[2])
if ARGV[6] ~= '' then
    redis.call('SET', KEYS[4], ARGV[6] .. ' ' .. ARGV[9], 'EX', ARGV[7])
end
redis.call('LPUSH', KEYS[2], ARGV[3])
-- The gateway's reader is blocked on the streams it knew when it began to wait;
-- this makes it begin again with the new one.
redis.call('XADD', KEYS[3], 'MAXLEN', '1', '*', 'r', '')
redis.call('EXPIRE', KEYS[3], ARGV[5])
return {'queued'}
