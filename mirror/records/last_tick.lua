-- Whether a time of the wall clock is ahead of the last tick by more than schedulers are apart. The clock was set back
-- then, after a process had read it.
local function is_ahead(moment)
  local ticked = tonumber(redis.call('GET', KEY.schedules_ticked) or '')
  return ticked and tonumber(moment) > ticked + AHEAD_MS
end
