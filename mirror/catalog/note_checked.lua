-- @include mirror/redis/clock.lua
-- Notes that tags of a repository were compared with their sources now.
-- KEYS: the times of the repository. ARGV: the tags.
local moment, times = string.format('%.0f', now()), {}
for _, tag in ipairs(ARGV) do
  times[#times + 1] = tag
  times[#times + 1] = moment
end
redis.call('HSET', KEYS[1], unpack(times))
