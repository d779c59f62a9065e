-- Give a call to the worker that asks for it, and open its stream.
--
-- KEYS  1 request record   2 its stream
-- ARGV  1 replica that asks   2 key prefix of replica heartbeats   3 most attempts
--       4 seconds the stream lives   5 token of the delivery that asks
-- Returns {verdict} or {'claimed', attempt, field, value, …}. Verdicts:
--   gone       no such call: finished, cancelled or expired
--   held       a live worker has it
--   expired    it waited for a worker longer than it was allowed to
--   exhausted  it has been tried as often as it may
--   begun      an earlier attempt has sent part of the answer, which cannot be repeated
--
-- Safe to repeat: a delivery that lost the reply asks again with the same token, and
-- gets what it has already.
local function claimed(attempt)
    local reply = redis.call('HGETALL', KEYS[1])
    table.insert(reply, 1, attempt)
    table.insert(reply, 1, 'claimed')
    return reply
end

local record = redis.call('HMGET', KEYS[1], 'replica', 'attempt', 'claim_by_ms', 'token')
if not record[2] then
    return {'gone'}
end
local attempt = tonumber(record[2])
if record[1] and record[1] ~= '' then
    if record[4] == ARGV[5] then
        return claimed(attempt)
    end
    if record[1] == ARGV[1] or redis.call('EXISTS', ARGV[2] .. record[1]) == 1 then
        return {'held'}
    end
end
local verdict = nil
if attempt == 0 then
    local time = redis.call('TIME')
    if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(record[3]) then
        verdict = 'expired'
    end
else
    local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')
    -- A stream whose last record is the first of its attempt holds no part of the answer.
    if last[1] and not string.match(last[1][1], '%-0$') then
        verdict = 'begun'
    elseif attempt >= tonumber(ARGV[3]) then
        verdict = 'exhausted'
    end
end
-- The attempt is counted for a verdict too: whoever tells the client writes under it,
-- and no earlier worker can write after that.
attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'replica', ARGV[1], 'token', ARGV[5])
redis.call('XADD', KEYS[2], attempt .. '-0', 'k', 'started', 'replica', ARGV[1], 'attempt', attempt)
redis.call('EXPIRE', KEYS[2], ARGV[4])
if verdict then
    return {verdict, attempt}
end
return claimed(attempt)
