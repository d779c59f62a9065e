-- Say that a worker lives, and learn which others do not.
--
-- KEYS  1 replicas, by the time each lives until
-- ARGV  1 replica ("": only ask)   2 milliseconds it lives from now on
-- Returns {whether it was thought alive, the server's run id, its clock in milliseconds, dead replicas …}.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local stood = 0
if ARGV[1] ~= '' then
    stood = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) > now_ms and 1 or 0
    redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[2]), ARGV[1])
end
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms)
table.insert(dead, 1, tostring(now_ms))
-- Another id: Redis was restarted, perhaps from an older state, however short that was.
table.insert(dead, 1, string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '')
table.insert(dead, 1, stood)
return dead
