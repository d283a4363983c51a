-- Note the time of a tick, unless another process has noted one since this process has read the last one.
-- ARGV: the last tick that the caller has seen, or '' for none, and the time. Returns 1, or 0 if it is not noted.
local ticked = redis.call('GET', KEY.schedules_ticked) or ''
if ticked ~= ARGV[1] and ticked ~= ARGV[2] then return 0 end
redis.call('SET', KEY.schedules_ticked, ARGV[2])
return 1
