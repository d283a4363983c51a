-- Set the next slot of a schedule after the clock was set back.
-- ARGV: schedule, the last tick and the next slot that the caller has seen, the right one, and the time of its run.
-- Returns 1, or 0 if another process has changed it, or has done all of this and ticked since.
local key = KEY.schedule(ARGV[1])
if redis.call('GET', KEY.schedules_ticked) ~= ARGV[2] then return 0 end
if redis.call('HGET', key, 'next_slot') ~= ARGV[3] then return 0 end
redis.call('HSET', key, 'next_slot', ARGV[4], 'next_run_at', ARGV[5])
redis.call('ZADD', KEY.schedules_due, ARGV[5], ARGV[1])
return 1
