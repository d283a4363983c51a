-- Store a schedule, or replace its definition. Its runs, its claimed slots and its health stay.
-- ARGV: id, the version that it must have ('' if it must be new), its name, the fields to write as JSON, and the time of
-- its next run, '' for none, or 'keep'. Returns the code and the version: 'stored', 'name taken', 'unknown' or 'changed'.
local id, wanted, name, run_at = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local key = KEY.schedule(id)
local fields = cjson.decode(ARGV[4])
local version = redis.call('HGET', key, 'version')
if version == fields.version and redis.call('HGET', key, 'definition') == fields.definition then
  return {'stored', version}  -- sent twice
end
local owner = redis.call('HGET', KEY.schedule_names, name)
if wanted == '' then
  if version then return {'stored', version} end  -- sent twice, and changed in between
  if owner then return {'name taken', ''} end
elseif not version then
  return {'unknown', ''}
elseif version ~= wanted then
  return {'changed', version}
elseif owner and owner ~= id then
  return {'name taken', ''}
end
local before = redis.call('HGET', key, 'name')
if before and before ~= name then redis.call('HDEL', KEY.schedule_names, before) end
for field, value in pairs(fields) do redis.call('HSET', key, field, value) end
redis.call('HSET', KEY.schedule_names, name, id)
redis.call('ZADD', KEY.schedules, 0, id)
if run_at == '' then redis.call('ZREM', KEY.schedules_due, id)
elseif run_at ~= 'keep' then redis.call('ZADD', KEY.schedules_due, run_at, id) end
-- The next slot was computed from this time. If the clock is set back now, the next tick has to notice.
local ticked = tonumber(redis.call('GET', KEY.schedules_ticked) or '0')
if ticked < tonumber(fields.updated_at) then redis.call('SET', KEY.schedules_ticked, fields.updated_at) end
return {'stored', fields.version}
