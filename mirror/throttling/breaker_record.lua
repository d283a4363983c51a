-- @include mirror/redis/clock.lua
-- What the scripts of a registry's circuit breaker share. KEYS: the breaker's record.
local record, moment = KEYS[1], now()

local function number(field) return tonumber(redis.call('HGET', record, field) or '') end

local function note(field, value) redis.call('HSET', record, field, string.format('%d', value)) end

-- Returns 1 if the registry sent what was asked for in the last KNOWN_SECONDS, else 0.
local function is_known()
  local answered_at = number('answered_at')
  return (answered_at and moment - answered_at <= KNOWN_SECONDS * 1000) and 1 or 0
end

-- Returns the outage as a list: is it known, ms to wait, cause of the last failure, 1 if that was a response.
local function outage(wait)
  local found = redis.call('HMGET', record, 'cause', 'cause_answered')
  return {is_known(), wait, found[1] or '', found[2] == '1' and 1 or 0}
end
