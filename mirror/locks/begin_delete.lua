-- @include mirror/redis/clock.lua
-- Grants the right to delete a blob, unless a living holder has pinned it. Removes the pins of dead holders.
-- ARGV: the digest, for how many ms the right is granted. Returns 1 if it is granted, else 0.
local digest = ARGV[1]
for _, holder in ipairs(redis.call('SMEMBERS', KEY.pin(digest))) do
  local left = redis.call('PTTL', KEY.pin_holder(holder))
  -- Redis keeps the wall time at which a key expires. If its clock was ahead then and was set back, that is far away.
  if left > HOLDER_SECONDS * 1000 then redis.call('EXPIRE', KEY.pin_holder(holder), HOLDER_SECONDS) end
  if left > 0 then return 0 end
  redis.call('SREM', KEY.pin(digest), holder)
end
redis.call('ZADD', KEY.pins_deleting, string.format('%d', now() + ARGV[2]), digest)
return 1
