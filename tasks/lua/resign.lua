-- Stop leading, if we still do.
--
-- KEYS  1 lock   2 stands while the leader is asked to look again
-- ARGV  1 token
-- Returns 1 when somebody asked us to look again.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1])
return redis.call('EXISTS', KEYS[2])
