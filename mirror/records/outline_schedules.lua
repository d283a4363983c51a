-- Read what a list needs of schedules before it reads them whole. It changes nothing.
-- ARGV: where to begin, as ZRANGEBYLEX takes it, and how many. Returns for each its id, name, next_run_at,
-- consecutive_failures, last_success_at, labels and the bytes of its definition.
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYLEX', KEY.schedules, ARGV[1], '+', 'LIMIT', 0, ARGV[2])) do
  local key = KEY.schedule(id)
  local values = redis.call('HMGET', key, 'name', 'next_run_at', 'consecutive_failures', 'last_success_at', 'labels')
  found[#found + 1] = id
  for place = 1, 5 do found[#found + 1] = values[place] or '' end
  found[#found + 1] = redis.call('HSTRLEN', key, 'definition')
end
return found
