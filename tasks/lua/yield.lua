-- For how many interactive requests that have waited too long is a bulk request to be put back?
--
-- KEYS  1 list of the model's interactive queue   2 requests that way was given to, by when another is put back for them
-- ARGV  1 milliseconds a request waits before   2 most that the asking worker can put back
--       3 milliseconds until another is put back for the same request   4 key prefix of request records
--       5 seconds the second key lives
-- Returns how many the asking worker is to put back. Each is marked, so that the replicas of a model together put
-- back one for each that waits; the mark lapses, since what was freed may have gone to somebody else.
if redis.call('LLEN', KEYS[1]) == 0 then
    return 0
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms)
local most = tonumber(ARGV[2])
local waiting = redis.call('LRANGE', KEYS[1], -(most + redis.call('ZCARD', KEYS[2])), -1)
local count = 0
-- Workers take from the right.
for i = #waiting, 1, -1 do
    local read, message = pcall(cjson.decode, waiting[i])
    local id = read and type(message) == 'table' and type(message.headers) == 'table' and message.headers.id
    if count < most and type(id) == 'string' and not redis.call('ZSCORE', KEYS[2], id) then
        -- One whose record is gone has to be taken all the same: it stands in front of others.
        local since_ms = tonumber(redis.call('HGET', ARGV[4] .. id, 'admitted_ms') or 0)
        if now_ms - since_ms >= tonumber(ARGV[1]) then
            redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[3]), id)
            count = count + 1
        end
    end
end
if count > 0 then
    redis.call('EXPIRE', KEYS[2], ARGV[5])
end
return count
