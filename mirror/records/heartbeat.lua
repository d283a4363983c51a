-- @include mirror/redis/clock.lua
-- Notes the heartbeat of a process, and removes those that are older than KEPT_SECONDS.
-- KEYS: the heartbeats of this kind of process. ARGV: the process, what it does now. Returns 1.
local moment = now()
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local process, at = found[i], tonumber(string.match(found[i + 1], '^%d+')) or 0
  if moment - at > KEPT_SECONDS * 1000 then redis.call('HDEL', KEYS[1], process) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', moment) .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], KEPT_SECONDS)
return 1
