-- Give a call to the worker that asks for it, and open its stream.
--
-- KEYS  1 request record   2 its stream   3 what the asking replica holds   4 replicas, by the time each lives until
-- ARGV  1 replica that asks   2 token of the delivery that asks   3 request id   4 seconds a claimed stream lives
--       5 seconds the record outlives the longest answer   6 key prefix of paces   7 seconds a pace stands
--       8 most migrations
-- Returns {verdict} or {'claimed', attempt, last record continued from, field, value, …}. Verdicts:
--   gone       no such call: finished, cancelled or expired
--   held       another delivery has it, and whoever finds that one's worker dead puts it back
--   expired    it waited for a worker longer than it was allowed to; then come an attempt to say so under, and how long it is kept
--
-- An attempt is larger than every earlier one, also when Redis has been restarted from
-- an older state meanwhile: it is at least the time in milliseconds.
--
-- Safe to repeat: a delivery that lost the reply asks again with the same token, and
-- gets what it has already.
local function claimed(attempt, after)
    local reply = redis.call('HGETALL', KEYS[1])
    table.insert(reply, 1, after)
    table.insert(reply, 1, attempt)
    table.insert(reply, 1, 'claimed')
    return reply
end

local function field(record, name)
    for i = 1, #record[2], 2 do
        if record[2][i] == name then
            return record[2][i + 1]
        end
    end
end

local record = redis.call('HMGET', KEYS[1], 'replica', 'attempt', 'claim_by_ms', 'token', 'ended', 'tries', 'deaths',
    'total_s', 'list', 'keep_s', 'migrations')
if not record[2] or record[5] then
    return {'gone'}
end
local attempt = tonumber(record[2])
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
local kind = last and field(last, 'k')
local after = ''
if kind == 'delta' then
    after = last[1]
elseif kind == 'started' then
    after = field(last, 'after') or ''
end
if record[1] and record[1] ~= '' then
    if record[4] == ARGV[2] then
        return claimed(string.format('%.0f', attempt), after)
    end
    if redis.call('ZSCORE', KEYS[4], record[1]) then
        return {'held'}
    end
end
if kind == 'done' or kind == 'failed' then
    local kept = tonumber(record[10] or 0)
    if kept > 0 then
        local status = kind == 'done' and 'completed' or 'failed'
        redis.call('HSET', KEYS[1], 'replica', '', 'body', '', 'state', '', 'ended', status)
        redis.call('EXPIRE', KEYS[1], kept)
    else
        redis.call('UNLINK', KEYS[1])
    end
    return {'gone'}
end
-- The pace of a list: claims since it was last found empty; of late, when that is long ago.
local function keep_pace(list, now_ms)
    local pace = ARGV[6] .. list
    if redis.call('LLEN', list) == 0 then
        redis.call('UNLINK', pace)
        return
    end
    local was = redis.call('HMGET', pace, 'since_ms', 'claims')
    local since_ms, claims = tonumber(was[1] or now_ms), tonumber(was[2] or -1) + 1
    if now_ms - since_ms > 30000 then
        since_ms, claims = now_ms - 15000, claims * 15000 / (now_ms - since_ms)
    end
    redis.call('HSET', pace, 'since_ms', string.format('%.0f', since_ms), 'claims', claims)
    redis.call('EXPIRE', pace, ARGV[7])
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local written = last and tonumber(string.match(last[1], '^%d+')) or 0
local verdict = nil
if tonumber(record[6] or 0) == 0 and now_ms > tonumber(record[3]) then
    verdict = 'expired'
end
attempt = string.format('%.0f', math.max(attempt + 1, written + 1, now_ms))
-- A call that was there when a worker died, or may not be moved again, runs alone; until it does, it is not in danger
-- of being blamed again.
local above_suspicion = tonumber(record[7] or 0) == 0 and tonumber(record[11] or 0) < tonumber(ARGV[8])
local danger = above_suspicion and '1' or ''
redis.call('HSET', KEYS[1], 'replica', ARGV[1], 'token', ARGV[2], 'attempt', attempt, 'danger', danger)
if not verdict then
    redis.call('HINCRBY', KEYS[1], 'tries', 1)
end
local needed = math.ceil(tonumber(record[8] or 0)) + ARGV[5]
if redis.call('TTL', KEYS[1]) < needed then
    redis.call('EXPIRE', KEYS[1], needed)
end
redis.call('SADD', KEYS[3], ARGV[3])
local claimed_s = math.max(tonumber(ARGV[4]), needed)
redis.call('EXPIRE', KEYS[3], claimed_s)
redis.call('XADD', KEYS[2], attempt .. '-0', 'k', 'started', 'replica', ARGV[1], 'attempt', attempt, 'after', after)
redis.call('EXPIRE', KEYS[2], claimed_s)
if record[9] then
    keep_pace(record[9], now_ms)
end
if verdict then
    return {verdict, attempt, record[10] or '0'}
end
return claimed(attempt, after)
