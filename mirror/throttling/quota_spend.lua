-- @include mirror/throttling/quota_ledger.lua
-- Counts a reserved unit as spent. A call that is sent twice no longer finds it reserved.
-- ARGV: the unit. Returns 1.
if redis.call('ZREM', reserved, ARGV[1]) == 1 and number('remaining') then
  note('remaining', math.max(0, number('remaining') - 1))
end
return 1
