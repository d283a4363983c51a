-- @include mirror/records/job_state.lua
-- Delete at most STEP tasks of a job whose record does not exist: it was removed, or its submission was never finished.
-- ARGV: job id. Returns 1 if tasks are left for another step, else 0.
local job = ARGV[1]
local due = redis.call('ZSCORE', KEY.jobs_leftover, job)
if not due or tonumber(due) > now() then return 0 end
if redis.call('EXISTS', KEY.job(job)) == 1 then
  redis.call('ZREM', KEY.jobs_leftover, job)
  return 0
end
redis.call('ZADD', KEY.jobs_leftover, 0, job)  -- nothing is added to the job until all of its tasks are deleted

-- The source as the task's spec has it, or its record where that is of a release before specs.
local function source_of(task)
  local found = redis.call('HMGET', task, 'spec', 'source')
  local is_json, spec = pcall(cjson.decode, found[1] or '')
  return is_json and type(spec) == 'table' and spec.source or found[2]
end

local ids = redis.call('ZRANGE', KEY.job_tasks(job), 0, STEP - 1)
for _, id in ipairs(ids) do
  local task = KEY.task(id)
  local source = is_record(task) and source_of(task)
  if source then redis.call('ZREM', KEY.jobs_by_source(source), job) end
  redis.call('DEL', task, KEY.task_blobs(id), KEY.task_waits(id), KEY.task_needs(id),
             KEY.task_selection(id))
end
redis.call('ZREMRANGEBYRANK', KEY.job_tasks(job), 0, STEP - 1)
if #ids == STEP then return 1 end
redis.call('DEL', KEY.job_tasks(job))
redis.call('UNLINK', KEY.job_pending(job), KEY.job_targets(job))
redis.call('ZREM', KEY.jobs_leftover, job)
return 0
