-- A replica leaves the rotation of its model, or comes back; the last one stays.
--
-- KEYS  1 replicas, by the time each lives until   2 record of the replica
-- ARGV  1 replica   2 its model   3 what it wishes: 'in' or 'out'   4 what precedes an id in the key of a record
--       5 seconds a record stands
-- Returns where it stands now: 'in', 'out', or 'last': it wished to leave, and no other live replica
-- of the model is ready and not out.
local function another()
    local now = redis.call('TIME')
    local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_ms, '+inf')) do
        if id ~= ARGV[1] then
            local other = redis.call('HMGET', ARGV[4] .. id, 'model', 'state', 'rotation')
            if other[1] == ARGV[2] and other[2] == 'ready' and other[3] ~= 'out' then
                return true
            end
        end
    end
    return false
end

local rotation = ARGV[3]
if rotation == 'out' and not another() then
    rotation = 'last'
end
redis.call('HSET', KEYS[2], 'rotation', rotation)
redis.call('EXPIRE', KEYS[2], ARGV[5])
return rotation
