-- Say that a worker lives, and learn which others do not.
--
-- KEYS  1 replicas, by the time each lives until
-- ARGV  1 replica ("": only ask)   2 milliseconds it lives from now on   3 '1' to be told the server's run id
-- Returns {whether it was thought alive, the server's run id or '', its clock in milliseconds, dead replicas …}.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms)
local stood = 0
if ARGV[1] ~= '' then
    stood = 1 - redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[2]), ARGV[1])
    for place, id in ipairs(dead) do
        if id == ARGV[1] then
            stood = 0
            table.remove(dead, place)
            break
        end
    end
end
local run_id = ''
if ARGV[3] == '1' then
    -- Another id: Redis was restarted, perhaps from an older state, however short that was.
    run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
end
table.insert(dead, 1, tostring(now_ms))
table.insert(dead, 1, run_id)
table.insert(dead, 1, stood)
return dead
