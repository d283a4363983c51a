-- Set the next slot of a schedule.
-- ARGV: schedule, the next slot that the caller has seen, the right one, and the time of its run.
-- Returns 1, or 0 if another process has changed it.
local key = KEY.schedule(ARGV[1])
if redis.call('HGET', key, 'next_slot') ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'next_slot', ARGV[3], 'next_run_at', ARGV[4])
redis.call('ZADD', KEY.schedules_due, ARGV[4], ARGV[1])
return 1
