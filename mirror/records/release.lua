-- @include mirror/records/job_state.lua
-- ARGV: task id, fence, token, the wait in ms (0: none), waiting_for as JSON or empty, and the error as JSON with which
-- the task fails after the wait, or empty. This is no loss, and it ends a row of losses: the worker is alive.
-- Returns 0 if the task was taken away, or ended because its job is being canceled, else 1, and then the queue entries
-- to add.
local id, task = ARGV[1], KEY.task(ARGV[1])
if not is_held_by(task, ARGV[2], ARGV[3]) then
  local found = redis.call('HMGET', task, 'state', 'holder')
  if found[1] ~= 'queued' or found[2] ~= ARGV[3] then return {0} end
  return redis.call('ZSCORE', KEY.tasks_queued, id) and add_entry({1}, id) or {1}
end
local moment = now()
if is_canceling(task) then
  end_task(task, id, 'canceled', {}, string.format('%d', moment))
  return {0}
end
local job = redis.call('HGET', task, 'job')
leave_running(job, id, string.format('%d', moment))
redis.call('HSET', task, 'state', 'queued', 'waiting_for', ARGV[5], 'losses', '0', 'fails_with', ARGV[6])
if tonumber(ARGV[4]) == 0 then
  queue_again(task, id, string.format('%d', moment))
  return add_entry({1}, id)
end
redis.call('ZADD', KEY.tasks_parked, string.format('%d', moment + ARGV[4]), id)
leave_lane(job, id)
redis.call('HSET', KEY.job(job), 'waiting_for', ARGV[5])
return fill_share(job, {1})
