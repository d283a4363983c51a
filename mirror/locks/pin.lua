-- @include mirror/redis/clock.lua
-- Pins digests for a holder and renews the holder. Pins none of them if one is being deleted.
-- ARGV: the holder, the digests. Returns the first digest that is being deleted, false if none is.
local holder, moment = ARGV[1], now()
for i = 2, #ARGV do
  local deletable_until = redis.call('ZSCORE', KEY.pins_deleting, ARGV[i])
  if deletable_until and tonumber(deletable_until) > moment then return ARGV[i] end
end
for i = 2, #ARGV do
  redis.call('SADD', KEY.pin(ARGV[i]), holder)
  redis.call('EXPIRE', KEY.pin(ARGV[i]), PIN_SECONDS)
end
redis.call('SET', KEY.pin_holder(holder), 1, 'EX', HOLDER_SECONDS)
return false
