-- Forgets a wish unless another has taken its place.
--
-- KEYS[1]  the wish (string)
-- ARGV[1]  the wish as it was read
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
