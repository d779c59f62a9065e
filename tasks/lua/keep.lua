-- Keep how far an answer has come that does not stream: whoever runs its call next goes on from there.
--
-- KEYS  1 request record
-- ARGV  1 attempt   2 the state, of a form that only engines know
-- Returns 1 when it was kept. What arrives when the attempt has given the call up is older than what that left.
local record = redis.call('HMGET', KEYS[1], 'attempt', 'replica')
if record[1] ~= ARGV[1] or (record[2] or '') == '' then
    return 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'state_attempt', ARGV[1])
return 1
