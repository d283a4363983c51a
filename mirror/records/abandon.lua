-- @include mirror/records/job_state.lua
-- End as failed a task whose record cannot be written, by replacing the record.
-- ARGV: task id, fence, token, job id, the error as JSON, the record as it was claimed (fields that are texts) as JSON.
-- Returns 1 if the task ended so, else 0, and then the queue entries to add.
local id, task, job = ARGV[1], KEY.task(ARGV[1]), ARGV[4]
if not is_record(KEY.job(job)) then
  for _, watched in ipairs({KEY.tasks_queued, KEY.tasks_running, KEY.tasks_parked}) do
    redis.call('ZREM', watched, id)
  end
  return {0}
end
if not is_record(task) then
  redis.call('DEL', task)
  write(task, cjson.decode(ARGV[6]))
  redis.call('HSET', task, 'holder', ARGV[3])
elseif not is_held_by(task, ARGV[2], ARGV[3]) then
  return {0}
end
for _, part in ipairs({KEY.task_blobs(id), KEY.task_waits(id)}) do
  if not is_record(part) then redis.call('DEL', part) end
end
return fill_window(end_task(task, id, 'failed', {error = ARGV[5]}, string.format('%d', now())), {1})
