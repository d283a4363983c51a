-- @include mirror/records/job_state.lua
-- Cancel and retry work in steps of at most STEP tasks, in the order of the job's tasks. The job's record says which
-- request is under way (step) and after which task it continues (step_after). The reconciler watches the job until then.

-- Fields of a task whose sums over all tasks are in the job's record.
local SUMMED = {'bytes_total', 'bytes_copied', 'bytes_skipped', 'foreign_copied', 'foreign_left_out'}

local function cancel_tasks(job, ids, moment)
  local canceled = 0
  for _, id in ipairs(ids) do
    local task = KEY.task(id)
    if redis.call('HGET', task, 'state') == 'queued' then
      redis.call('HSET', task, 'state', 'canceled', 'finished_at', moment, 'waiting_for', '', 'holder', '')
      redis.call('ZREM', KEY.tasks_queued, id)
      redis.call('ZREM', KEY.tasks_parked, id)
      leave_lane(job, id)
      if kind_of(task) ~= 'release' then canceled = canceled + 1 end
    end
  end
  if canceled > 0 then add(KEY.job(job), 'canceled', canceled) end
end

-- Restart the failed and canceled tasks. Each fence grows, so that no queue entry from before can claim the task.
local function restart_tasks(job, ids)
  local restarted, changes = {}, {failed = 0, canceled = 0}
  for _, field in ipairs(SUMMED) do changes[field] = 0 end
  for _, id in ipairs(ids) do
    local task = KEY.task(id)
    redis.call('PERSIST', task)  -- the release before this one let the records of ended jobs expire
    redis.call('PERSIST', KEY.task_blobs(id))
    local ended = redis.call('HGET', task, 'state')
    if ended == 'failed' or ended == 'canceled' then
      local is_release = kind_of(task) == 'release'
      if not is_release then changes[ended] = changes[ended] - 1 end
      for i, value in ipairs({numbers(task, unpack(SUMMED))}) do changes[SUMMED[i]] = changes[SUMMED[i]] - value end
      redis.call('HINCRBY', task, 'fence', 1)
      redis.call('HINCRBY', task, 'attempt', 1)
      redis.call('HSET', task, 'state', 'queued')
      redis.call('HDEL', task, 'losses', 'holder', 'started_at', 'finished_at', 'blob_counts', unpack(OUTCOMES))
      redis.call('HDEL', task, unpack(SUMMED))
      redis.call('DEL', KEY.task_blobs(id), KEY.task_waits(id))
      if not is_release then restarted[#restarted + 1] = id end
    end
  end
  if #restarted > 0 then redis.call('RPUSH', KEY.job_pending(job), unpack(restarted)) end
  for field, change in pairs(changes) do
    if change ~= 0 then add(KEY.job(job), field, change) end
  end
end

local function begin_steps(job, step)
  redis.call('HSET', KEY.job(job), 'step', step, 'step_after', '')
  redis.call('UNLINK', KEY.job_pending(job))
end

-- Take tasks that are neither queued nor running out of their job's share. A worker of a release before lanes leaves
-- the tasks there that it has ended.
local function tidy_share(job)
  for _, id in ipairs(redis.call('SMEMBERS', KEY.job_share(job))) do
    if not redis.call('ZSCORE', KEY.tasks_queued, id) and not redis.call('ZSCORE', KEY.tasks_running, id) then
      redis.call('SREM', KEY.job_share(job), id)
    end
  end
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
    if step == 'cancel' then cancel_tasks(job, ids, moment) else restart_tasks(job, ids) end
    is_last = #ids < STEP
    if is_last then
      redis.call('HDEL', key, 'step', 'step_after')
      local state = redis.call('HGET', key, 'state')
      if state == 'queued' or state == 'running' then conclude(job, moment) end
    else
      redis.call('HSET', key, 'step_after', ids[#ids])
    end
  end
  tidy_share(job)
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
