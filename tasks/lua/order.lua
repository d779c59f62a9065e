-- Write a loader's orders, unless another loader has taken over since.
--
-- KEYS  1 epoch of the loader   2 orders, by node and replica
-- ARGV  1 the epoch they were decided in   2.. field, order, '1' if it is a new one, … of each
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
for i = 2, #ARGV, 3 do
    if ARGV[i + 2] == '1' or redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then
        redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    end
end
return 1
