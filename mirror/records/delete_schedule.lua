-- Delete a schedule and its runs. A job that is under way goes on.
-- ARGV: id, the version that it must have or ''. Returns 'deleted', 'unknown' or 'changed'.
local id, key = ARGV[1], KEY.schedule(ARGV[1])
local version, name = unpack(redis.call('HMGET', key, 'version', 'name'))
if not version then return 'unknown' end
if ARGV[2] ~= '' and version ~= ARGV[2] then return 'changed' end
for _, run in ipairs(redis.call('ZRANGE', KEY.schedule_runs(id), 0, -1)) do
  redis.call('ZREM', KEY.runs_open, run)
  redis.call('DEL', KEY.run(run))
end
redis.call('UNLINK', key, KEY.schedule_runs(id), KEY.schedule_slots(id), KEY.schedule_tags(id))
redis.call('HDEL', KEY.schedule_names, name)
redis.call('ZREM', KEY.schedules, id)
redis.call('ZREM', KEY.schedules_due, id)
return 'deleted'
