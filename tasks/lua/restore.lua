-- Take one message out of a dead worker's unacknowledged ones, and put it back in its queue.
--
-- KEYS  1 unacked hash   2 unacked index   3 queue's list
-- ARGV  1 delivery tag   2 message; '' drops it
-- Returns 1 when the message was still there. Two reapers at once restore it once.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
    return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[2] ~= '' then
    redis.call('RPUSH', KEYS[3], ARGV[2])
end
return 1
