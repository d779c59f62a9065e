-- Become the one loader for a while, under a new epoch.
--
-- KEYS  1 lock   2 epoch   3 stands while the leader is asked to look again
-- ARGV  1 token   2 milliseconds
-- Returns the epoch, or 0 when somebody else leads, who is asked to look again then:
-- what we were woken for may have happened after its look.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    redis.call('SET', KEYS[3], '', 'PX', ARGV[2])
    return 0
end
redis.call('DEL', KEYS[3])
return redis.call('INCR', KEYS[2])
