-- The clock of the mirror: Redis' wall clock, made monotonic. Leases, rests and ids are measured by it.
--
-- Somebody may set the wall clock back, or a bad time server set it ahead by a year and a good one set it back. From
-- then on this clock is ahead, and runs a tenth slower until the wall clock has caught up. So it never goes back, and
-- it never stops: leases go on to expire, and tasks that wait become due.
--
-- KEY.clock is the latest time that was returned, in ms. KEY.clock_slowed is the line on which the clock runs while it
-- is ahead: the time in ms and the wall clock in microseconds at its start, and the speed. It is written once, when the
-- wall clock goes back. A line counts only if it passes through the latest time or above. One of an earlier step does
-- not, because the wall clock has caught up with it since. Nor does one whose wall clock was set back once more.

-- Returns the time in ms since the epoch and the latest time before. If the wall clock was set back since, also returns
-- the wall clock in microseconds. Writes nothing.
local function read_now()
  local wall = redis.call('TIME')
  local micros = wall[1] * 1000000 + wall[2]
  local ms, last = math.floor(micros / 1000), tonumber(redis.call('GET', KEY.clock) or '0')
  if ms >= last then return ms, last end
  local start, start_micros, speed = string.match(redis.call('GET', KEY.clock_slowed) or '', '^(%d+) (%d+) ([%d.]+)$')
  if start then
    local slowed = start + math.floor((micros - start_micros) * speed / 1000)
    if slowed >= last then return slowed, last end
  end
  return last, last, micros
end

-- Returns the time in ms since the epoch. It never goes back.
local function now()
  local moment, last, set_back_at = read_now()
  if set_back_at then redis.call('SET', KEY.clock_slowed, string.format('%.0f %.0f 0.9', last, set_back_at)) end
  if moment > last then redis.call('SET', KEY.clock, string.format('%.0f', moment)) end
  return moment
end
