-- @include mirror/records/job_state.lua
-- Cancel and retry work in steps of at most STEP tasks, in the order of the job's tasks. The job's record says which
-- request is under way (step) and after which task it continues (step_after). The reconciler watches the job until then.

local function cancel_task(id, moment)
  local task = KEY.task(id)
  if redis.call('HGET', task, 'state') ~= 'queued' then return end
  redis.call('HSET', task, 'holder', '')
  end_task(task, id, 'canceled', {}, moment)
end

-- The fence grows, so that no queue entry from before can claim the task.
local function restart_task(job, id)
  local key, task = KEY.job(job), KEY.task(id)
  redis.call('PERSIST', task)  -- a release before this one let the records of ended jobs expire
  redis.call('PERSIST', KEY.task_blobs(id))
  local ended = redis.call('HGET', task, 'state')
  if ended ~= 'failed' and ended ~= 'canceled' then return end
  for _, field in ipairs({'bytes_total', 'bytes_copied', 'bytes_skipped'}) do
    add(key, field, -number(task, field))
    redis.call('HSET', task, field, '0')
  end
  add(key, ended, -1)
  redis.call('HINCRBY', task, 'fence', 1)
  redis.call('HINCRBY', task, 'attempt', 1)
  redis.call('HSET', task, 'state', 'queued', 'losses', '0', 'holder', '', 'digest', '', 'error', '', 'started_at', '',
             'finished_at', '', 'blob_counts', '')
  redis.call('DEL', KEY.task_blobs(id), KEY.task_waits(id))
  redis.call('RPUSH', KEY.job_pending(job), id)
end

local function begin_steps(job, step)
  redis.call('HSET', KEY.job(job), 'step', step, 'step_after', '')
  redis.call('UNLINK', KEY.job_pending(job))
end

local function watch(job, seconds)
  redis.call('ZADD', KEY.jobs_watched, string.format('%d', now() + seconds * 1000), job)
end

-- Continue the request that is under way, if any, and fill the window. Returns 1 if tasks are left for another step,
-- else 0, and then the queue entries to add.
local function take_step(job)
  local key = KEY.job(job)
  local step, after = unpack(redis.call('HMGET', key, 'step', 'step_after'))
  local is_last = true
  if is_set(step) then
    local first = is_set(after) and '(' .. after or '-'
    local ids = redis.call('ZRANGEBYLEX', KEY.job_tasks(job), first, '+', 'LIMIT', 0, STEP)
    local moment = string.format('%d', now())
    for _, id in ipairs(ids) do
      if step == 'cancel' then cancel_task(id, moment) else restart_task(job, id) end
    end
    is_last = #ids < STEP
    if is_last then
      redis.call('HDEL', key, 'step', 'step_after')
      local state = redis.call('HGET', key, 'state')
      if state == 'queued' or state == 'running' then conclude(job, moment) end
    else
      redis.call('HSET', key, 'step_after', ids[#ids])
    end
  end
  local entries = fill_window(job, {is_last and 0 or 1})
  if not is_last then watch(job, STEP_SECONDS)
  elseif redis.call('LLEN', KEY.job_pending(job)) > 0 then watch(job, WINDOW_SECONDS)
  else redis.call('ZREM', KEY.jobs_watched, job) end
  return entries
end

-- The queue entries of the job's first released tasks, for a script that is sent twice: its first answer was lost.
local function queued_entries(job, entries)
  for _, id in ipairs(redis.call('ZRANGEBYLEX', KEY.job_tasks(job), '-', '+', 'LIMIT', 0, STEP)) do
    if redis.call('ZSCORE', KEY.tasks_queued, id) then add_entry(entries, id) end
  end
  return entries
end
