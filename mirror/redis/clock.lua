-- Returns Redis' time in ms since the epoch.
-- It never goes back when somebody sets the clock, so that no lease that expired becomes valid again.
local function now()
  local time = redis.call('TIME')
  local ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local last = tonumber(redis.call('GET', KEY.clock) or '0')
  if ms <= last then return last end
  redis.call('SET', KEY.clock, string.format('%d', ms))
  return ms
end
