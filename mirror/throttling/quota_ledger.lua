-- @include mirror/redis/clock.lua
-- What the scripts of a pull limit's ledger share. KEYS: the ledger, the reserved units, more if a script says so.
local ledger, reserved, moment = KEYS[1], KEYS[2], now()

local function number(field) return tonumber(redis.call('HGET', ledger, field) or '') end

local function note(field, value) redis.call('HSET', ledger, field, string.format('%d', value)) end

-- Returns the length of a window, at most LONGEST_MS. An older release may have written more.
local function bound_window(ms) return ms and math.min(ms, LONGEST_MS) end

local function bound_lifetime()
  if redis.call('PTTL', ledger) > 2 * LONGEST_MS then redis.call('PEXPIRE', ledger, 2 * LONGEST_MS) end
end

-- Returns the ms until the window ends. If its start is unknown or too long ago, the window rolls: then returns a
-- twentieth of its length, at least a second and at most five minutes.
local function time_to_wait(window)
  local started = number('started')
  local left = started and started + window - moment or 0
  if left > 0 then return left end
  return math.min(math.max(window / 20, 1000), 300000)
end
