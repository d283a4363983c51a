-- @include mirror/redis/clock.lua
-- ARGV: task id, reason, the wait in ms, the patience in ms.
-- Returns the time, for how many ms the task may be parked (0 once its patience has ended), and 1 if the patience ends
-- with that. A wait that begins more than one patience after the last one for that reason starts a new count.
local waits, reason, patience, moment = KEY.task_waits(ARGV[1]), ARGV[2], tonumber(ARGV[4]), now()
local found = redis.call('HMGET', waits, reason, reason .. ':until')
local since, before = tonumber(found[1] or ''), tonumber(found[2] or '')
if not since or not before or moment - before > patience then since = moment end
local parked = math.max(0, math.min(tonumber(ARGV[3]), since + patience - moment))
redis.call('HSET', waits, reason, string.format('%d', since), reason .. ':until', string.format('%d', moment + parked))
redis.call('PEXPIRE', waits, string.format('%d', math.max(redis.call('PTTL', waits), parked + patience)))
return {moment, parked, parked < tonumber(ARGV[3]) and 1 or 0}
