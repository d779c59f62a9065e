-- Queue a message that asks somebody to look, unless one waits there that nobody has taken yet.
--
-- KEYS  1 list of the queue
-- ARGV  1 the Celery message
if redis.call('LLEN', KEYS[1]) == 0 then
    redis.call('LPUSH', KEYS[1], ARGV[1])
end
