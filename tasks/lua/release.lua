-- Give a call up without having answered: its message goes back to the queue.
--
-- KEYS  1 request record
-- ARGV  1 replica that gives it up
-- Returns 1 when that replica held it.
if redis.call('HGET', KEYS[1], 'replica') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'replica', '')
return 1
