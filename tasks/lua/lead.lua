-- Become the one loader for a while, under a new epoch.
--
-- KEYS  1 lock   2 epoch
-- ARGV  1 token   2 milliseconds
-- Returns the epoch, or 0 when somebody else leads.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return 0
end
return redis.call('INCR', KEYS[2])
