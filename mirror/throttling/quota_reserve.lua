-- @include mirror/throttling/quota_ledger.lua
-- Reserves all units or none.
-- ARGV: 1 if the registry was just asked what remains, else 0, then the units.
-- Returns 1 if they are reserved, the ms to wait, the ms since the last report or -1 without a limit, and 1 if only
-- pending requests decide. The last report may count those already.
local limit = number('limit')
if not limit then return {1, 0, -1, 0} end
bound_lifetime()
local window = bound_window(number('window'))
local told_ago = moment - number('told_at')
redis.call('ZREMRANGEBYSCORE', reserved, '-inf', string.format('%d', moment))
local units = {unpack(ARGV, 2)}
local started = number('started')
local has_ended = started and moment >= started + window
if ARGV[1] == '1' and has_ended and number('told_at') < started + window then
  -- The registry was asked and stated nothing: a new window is assumed.
  note('remaining', limit)
  redis.call('HDEL', ledger, 'started')
end
if not redis.call('ZSCORE', reserved, units[1]) then  -- else the call was sent twice
  local remaining, needed = number('remaining'), math.min(#units, limit)
  if remaining < needed then return {0, math.floor(time_to_wait(window)), told_ago, 0} end
  if remaining - redis.call('ZCARD', reserved) < needed then
    local first = redis.call('ZRANGE', reserved, 0, 0, 'WITHSCORES')
    return {0, tonumber(first[2]) - moment, told_ago, 1}
  end
  for _, unit in ipairs(units) do
    redis.call('ZADD', reserved, string.format('%d', moment + RESERVED_SECONDS * 1000), unit)
  end
  redis.call('EXPIRE', reserved, RESERVED_SECONDS)
end
return {1, 0, told_ago, 0}
