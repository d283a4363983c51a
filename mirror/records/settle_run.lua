-- End a run, and open the one that waits for its end. Repeating it changes nothing.
-- ARGV: run, its new fields as JSON, the time, '1' if the run counts as a failure, '0' if it counts as a success, '' if
-- neither, and the state that it must have, or '' for any.
-- Returns 1, or 0 if the run has another state, had ended before or is gone.
local id, fields, now = ARGV[1], cjson.decode(ARGV[2]), ARGV[3]
local state, schedule = unpack(redis.call('HMGET', KEY.run(id), 'state', 'schedule'))
if not state or not redis.call('ZSCORE', KEY.runs_open, id) then return 0 end
if ARGV[5] ~= '' and state ~= ARGV[5] then return 0 end
for field, value in pairs(fields) do redis.call('HSET', KEY.run(id), field, value) end
redis.call('HDEL', KEY.run(id), 'definition')
redis.call('ZREM', KEY.runs_open, id)
local key = KEY.schedule(schedule)
if redis.call('EXISTS', key) == 0 then return 1 end
redis.call('HSET', key, 'last_run', id, 'last_run_at', now, 'last_state', fields.state)
if ARGV[4] == '0' then redis.call('HSET', key, 'last_success_at', now, 'consecutive_failures', '0')
elseif ARGV[4] == '1' then redis.call('HINCRBY', key, 'consecutive_failures', 1) end
local open, queued = unpack(redis.call('HMGET', key, 'open_run', 'queued_run'))
if open ~= id then return 1 end
redis.call('HSET', key, 'open_run', queued, 'queued_run', '')
if queued ~= '' then
  local definition, length = unpack(redis.call('HMGET', key, 'definition', 'deadline'))
  redis.call('HSET', KEY.run(queued), 'state', 'starting', 'definition', definition)
  redis.call('ZADD', KEY.runs_open, length ~= '' and now + length or '+inf', queued)
end
return 1
