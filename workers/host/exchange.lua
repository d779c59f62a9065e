-- All that a worker has to say of its messages in one turn: what is done, what it has in hand, what it wants.
--
-- KEYS  1 messages that are taken and not acknowledged, by tag   2 the same tags by the time they were taken
--       3.. lists to take from, in this order
-- ARGV  1 how many messages to take at most   2 Unix seconds   3 how many tags are done
--       4.. these tags, then for each list what stands behind a message taken from it, then for each message in
--       hand its tag and itself as it is kept
-- Returns for each message taken the number of its list, its tag ('': it has none, and is not kept), and itself.
--
-- Of a list no more than half is taken at once, so that others who have room get their part. Nothing is taken from
-- the lists behind one in which something is left.
-- What is kept is written before the message leaves its list: a full Redis refuses the write, and nothing is lost.
local done = tonumber(ARGV[3])
if done > 0 then
    redis.call('HDEL', KEYS[1], unpack(ARGV, 4, 3 + done))
    redis.call('ZREM', KEYS[2], unpack(ARGV, 4, 3 + done))
end
local behind = 3 + done
for i = behind + #KEYS - 1, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[i])
end
local taken = {}
local left = tonumber(ARGV[1])
for list = 1, #KEYS - 2 do
    local key = KEYS[list + 2]
    local length = left > 0 and redis.call('LLEN', key) or 0
    local share = math.min(left, math.ceil(length / 2))
    for _ = 1, share do
        local message = redis.call('LINDEX', key, -1)
        local tag = string.match(message, '"delivery_tag":%s*"([%w_:.-]+)"') or ''
        if tag ~= '' then
            redis.call('HSET', KEYS[1], tag, '[' .. message .. ARGV[behind + list])
            -- Those of one turn in their order, too: whoever puts them back goes by it.
            redis.call('ZADD', KEYS[2], string.format('%.6f', ARGV[2] + #taken * 0.000001), tag)
        end
        redis.call('RPOP', key)
        table.insert(taken, list)
        table.insert(taken, tag)
        table.insert(taken, message)
    end
    left = share < length and 0 or left - share
end
return taken
