-- @include mirror/records/job_state.lua
-- Take a task from a worker whose lease has ended: queue it again, or end it.
-- ARGV: task id, losses allowed, the error as JSON. Returns the queue entries to add.
local id, task = ARGV[1], KEY.task(ARGV[1])
local moment = now()
local ends = redis.call('ZSCORE', KEY.tasks_running, id)
if not ends or tonumber(ends) > moment then return {} end
moment = string.format('%d', moment)
redis.call('HSET', task, 'holder', '')
if is_canceling(task) then
  end_task(task, id, 'canceled', {}, moment)
  return {}
end
local losses = 0
if number(task, 'checkpoints') <= number(task, 'checkpoints_at_claim') then losses = number(task, 'losses') + 1 end
redis.call('HSET', task, 'losses', losses)
if losses >= tonumber(ARGV[2]) then
  return fill_window(end_task(task, id, 'failed', {error = ARGV[3]}, moment), {})
end
local attempt = redis.call('HINCRBY', task, 'attempt', 1)
local job = redis.call('HGET', task, 'job')
leave_running(job, id, moment)
if number(KEY.job(job), 'attempt') < attempt then redis.call('HSET', KEY.job(job), 'attempt', attempt) end
queue_again(task, id, moment)
return add_entry({}, id)
