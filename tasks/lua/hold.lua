-- Take a lock that nobody has, or prolong it while it is ours.
--
-- KEYS  1 lock
-- ARGV  1 token   2 milliseconds
-- Returns 1 when it is ours now.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
