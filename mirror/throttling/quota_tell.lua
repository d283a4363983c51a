-- @include mirror/throttling/quota_ledger.lua
-- Records the limit that a response stated.
-- KEYS: the ledger, the reserved units, the flag that the registry has a limit.
-- ARGV: the limit, the window in ms, what remains, the ms since the request was sent, the unit that was reserved for
-- the request or nothing. Returns 1.
local limit, window, remaining = tonumber(ARGV[1]), bound_window(tonumber(ARGV[2])), tonumber(ARGV[3])
local before, told_at, started = number('remaining'), number('told_at') or 0, number('started')
if ARGV[5] ~= '' then redis.call('ZREM', reserved, ARGV[5]) end
-- Responses overtake each other. Less than before is always true. More than before is true only if the request was sent
-- after the last report.
if not before or remaining <= before or moment - ARGV[4] >= told_at then
  if before and remaining > before then started = nil end
  if before and remaining < before and started and moment >= started + window then started = nil end
  if remaining >= limit then
    started = nil
  elseif not started then
    started = moment
  end
  note('limit', limit)
  note('window', window)
  note('remaining', remaining)
  note('told_at', moment)
  if started then note('started', started) else redis.call('HDEL', ledger, 'started') end
end
local ttl = string.format('%d', math.max(2 * window, 3600000))
redis.call('PEXPIRE', ledger, ttl)
redis.call('SET', KEYS[3], 1, 'PX', ttl)
return 1
