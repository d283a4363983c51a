-- @include mirror/records/job_state.lua
-- ARGV: task id, the fence that its queue entry has, the claim's token, the lease in ms.
-- Returns the fields and values of the claimed task, or nothing if it is not granted. A task of a job that is being
-- canceled ends instead.
local id, task = ARGV[1], KEY.task(ARGV[1])
local found = redis.call('HMGET', task, 'state', 'fence', 'holder', 'job', 'started_at', 'checkpoints')
if found[1] == 'running' and found[3] == ARGV[3] then return redis.call('HGETALL', task) end
if found[1] ~= 'queued' or (found[2] or '0') ~= ARGV[2] or not redis.call('ZSCORE', KEY.tasks_queued, id) then
  return {}
end
local moment = string.format('%d', now())
if is_canceling_job(found[4]) then
  end_task(task, id, 'canceled', {}, moment)
  return {}
end
redis.call('HSET', task, 'state', 'running', 'fence', string.format('%d', ARGV[2] + 1), 'holder', ARGV[3],
           'waiting_for', '', 'checkpoints_at_claim', found[6] or '0',
           'started_at', is_set(found[5]) and found[5] or moment)
redis.call('ZREM', KEY.tasks_queued, id)
redis.call('ZADD', KEY.tasks_running, string.format('%d', moment + ARGV[4]), id)
local key = KEY.job(found[4])
if not is_set(redis.call('HGET', key, 'started_at')) then redis.call('HSET', key, 'started_at', moment) end
redis.call('HINCRBY', key, 'running', 1)
redis.call('HSET', key, 'waiting_for', '')
set_job_state(found[4], 'running')
return redis.call('HGETALL', task)
