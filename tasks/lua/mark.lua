-- Note in its record how far a call that was there when a worker died has come with us.
--
-- KEYS  1 request record
-- ARGV  1 attempt   2 '1': it is about to run, 't': it has given a token
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'danger', ARGV[2])
return 1
