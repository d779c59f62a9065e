-- A worker has died with a call, or gives it up: the call goes back to the front of its queue, or ends.
--
-- KEYS  1 request record   2 its stream   3 list of its queue   4 what the replica holds
--       5 replicas, by the time each lives until   6 dead letter of the request   7 index of dead letters
-- ARGV  1 the replica   2 request id   3 cause: 'died', 'engine_died' or 'gives_up'   4 the Celery message
--       5 most deaths   6 most migrations   7 seconds a stream stands after its end   8 seconds a dead letter stands
--       9 the attempt that is given up ("": whichever the replica holds)
--       10 how far it has come with an answer that does not stream ("": no further than was kept before)
-- Returns what was done:
--   alive      nothing: the replica lives after all
--   not_held   nothing: it is not that replica's call
--   ended      nothing: its last record was written already
--   queued     it waits for the next worker
--   condemned  it ended with an error: it was there at too many deaths; it is a dead letter now
--   failed     it ended with an error: its answer cannot be continued, or was moved too often
--
-- A death counts against a call only when no token of it came since it was claimed: an
-- engine that dies of a request dies of it at once, and the others in the batch are bystanders.
-- A later death costs it one of its migrations. Of an answer that does not stream, what was kept tells of tokens.
local function field(record, name)
    for i = 1, #record[2], 2 do
        if record[2][i] == name then
            return record[2][i + 1]
        end
    end
end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
if ARGV[3] == 'died' and tonumber(redis.call('ZSCORE', KEYS[5], ARGV[1]) or 0) > now_ms then
    return 'alive'
end
local record = redis.call('HMGET', KEYS[1], 'replica', 'attempt', 'deaths', 'migrations', 'danger', 'keep_s', 'ended',
    'state', 'state_attempt')
if record[1] ~= ARGV[1] or not record[2] then
    redis.call('SREM', KEYS[4], ARGV[2])
    return 'not_held'
end
if ARGV[9] ~= '' and record[2] ~= ARGV[9] then
    return 'not_held' -- the same replica has taken it again meanwhile
end
redis.call('SREM', KEYS[4], ARGV[2])
if record[7] then
    return 'ended'
end
local attempt, deaths, migrations = tonumber(record[2]), tonumber(record[3] or 0), tonumber(record[4] or 0)
local keep_s = tonumber(record[6] or 0)

local function finish(status)
    if keep_s > 0 then
        redis.call('HSET', KEYS[1], 'replica', '', 'ended', status, 'ended_ms', now_ms, 'body', '', 'state', '')
        redis.call('EXPIRE', KEYS[1], keep_s)
        redis.call('EXPIRE', KEYS[2], keep_s)
    else
        redis.call('UNLINK', KEYS[1])
        redis.call('EXPIRE', KEYS[2], ARGV[7])
    end
end

local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
local kind = last and field(last, 'k')
if kind == 'done' or kind == 'failed' then
    finish(kind == 'done' and 'completed' or 'failed')
    return 'ended'
end
local progressed, sent = false, nil
if kind == 'delta' then
    progressed = tonumber(string.match(last[1], '^%d+')) == attempt
    sent = last
elseif kind == 'started' and (field(last, 'after') or '') ~= '' then
    local after = field(last, 'after')
    sent = redis.call('XRANGE', KEYS[2], after, after)[1]
end
local kept = (record[8] or '') ~= ''
if ARGV[10] ~= '' then
    redis.call('HSET', KEYS[1], 'state', ARGV[10], 'state_attempt', record[2])
    progressed, kept = true, true
elseif kept then
    progressed = progressed or record[9] == record[2]
end

local function fail(message, final)
    -- A record that was restored from an older state may be behind its stream.
    local written = last and tonumber(string.match(last[1], '^%d+')) or 0
    local next = string.format('%.0f', math.max(attempt, written) + 1)
    redis.call('XADD', KEYS[2], next .. '-0', 'k', 'failed', 'code', 'engine_failed', 'message', message, unpack(final))
    redis.call('HSET', KEYS[1], 'attempt', next)
    finish('failed')
end

local function bury(reason)
    redis.call('HDEL', KEYS[1], 'state', 'state_attempt')
    local letter = redis.call('HGETALL', KEYS[1])
    local produced = {}
    for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
        produced[#produced + 1] = field(entry, 'f') or ''
    end
    redis.call('HSET', KEYS[6], 'produced', table.concat(produced), 'reason', reason, 'died_ms', now_ms, unpack(letter))
    redis.call('EXPIRE', KEYS[6], ARGV[8])
    redis.call('ZADD', KEYS[7], now_ms, ARGV[2])
    redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', now_ms - ARGV[8] * 1000)
end

-- Without danger it has not begun: it waited to run alone.
if ARGV[3] ~= 'gives_up' and (record[5] ~= '' or progressed) then
    if record[5] == '1' and not progressed then
        deaths = deaths + 1
    elseif sent or kept or record[5] == 't' then
        migrations = migrations + 1
    end
end
redis.call('HSET', KEYS[1], 'deaths', deaths, 'migrations', migrations)
if deaths >= tonumber(ARGV[5]) then
    bury('Workers died whenever they ran it.')
    fail('Workers died whenever they ran this request; it is not tried again.', {'final', '1'})
    return 'condemned'
end
if sent and field(sent, 'u') then
    fail('The worker was lost in the middle of an answer that cannot be continued; repeat the request.', {})
    return 'failed'
end
if migrations > tonumber(ARGV[6]) then
    fail('The answer was moved from worker to worker too often; repeat the request.', {})
    return 'failed'
end
redis.call('HSET', KEYS[1], 'replica', '', 'danger', '')
redis.call('RPUSH', KEYS[3], ARGV[4])
return 'queued'
