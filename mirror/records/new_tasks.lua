-- Whether the tasks that a submission has stored are being deleted again, because it has taken too long.
local function is_being_deleted(job)
  local due = redis.call('ZSCORE', KEY.jobs_leftover, job)
  return due and tonumber(due) == 0
end

-- Store the records of a job's tasks and add them to its pending ones.
-- *common* are the fields that all of them have, and *own* is a list of each task's own fields.
local function store_tasks(job, common, own, source_indexes)
  local ids = {}
  for i, fields in ipairs(own) do
    local task = KEY.task(fields.id)
    write(task, common)
    write(task, fields)
    redis.call('ZADD', KEY.job_tasks(job), 0, fields.id)
    ids[i] = fields.id
  end
  redis.call('RPUSH', KEY.job_pending(job), unpack(ids))
  for _, index in ipairs(source_indexes) do redis.call('ZADD', index, 0, job) end
end
