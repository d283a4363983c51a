-- @include mirror/redis/clock.lua
-- What the scripts that change jobs and tasks share, and what they keep true together: a task's record, the counters and
-- the state of its job, the indexes that list jobs, and the one set (queued, running or parked) in which the reconciler
-- watches the task.
--
-- A task of a job that is not in one of these sets waits in the job's list of pending tasks. It is released into the
-- window when another task ends. The window is the number of released tasks that have not ended:
-- total - succeeded - failed - canceled - pending.
--
-- A task is an image, or of another kind. An expansion counts as an image until it has succeeded: then the images that
-- it added count in its place. The release task of an atomic job never counts. It is queued when all images have
-- succeeded, and the job ends as it ends.
--
-- A task that is released has a queue entry in one of the two lanes of its job's priority. The short lane has at most
-- FAIR_SHARE tasks of each job, its fair share, which are queued or running. All others are in the bulk lane. When one
-- of the share ends or is parked, another gets its place. So a job waits for few tasks of each other job, however large
-- those are, and every job has as many tasks in the short lane as any other.

local function is_set(text) return text and text ~= '' end

local function set_job_state(job, state)
  local key = KEY.job(job)
  local before = redis.call('HGET', key, 'state')
  if before == state then return end
  if before then redis.call('ZREM', KEY.jobs_by_state(before), job) end
  redis.call('ZADD', KEY.jobs_by_state(state), 0, job)
  redis.call('HSET', key, 'state', state)
end

local function write(key, fields)
  local flat = {}
  for field, value in pairs(fields) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  redis.call('HSET', key, unpack(flat))
end

-- Counts and bytes are whole numbers that a double holds exactly. Anything else in a field counts as the nearest of
-- those, so that no record makes a script fail.
local function count(text)
  local value = tonumber(text or '0') or 0
  return (value > 0) and math.min(math.floor(value), 9007199254740992) or 0
end

local function numbers(key, ...)
  local found = redis.call('HMGET', key, ...)
  for i = 1, #found do found[i] = count(found[i]) end
  return unpack(found)
end

local function number(key, field)
  return (numbers(key, field))
end

-- What the end of a task leaves in its record, and which of it a job of one image shows, too.
local OUTCOMES = {'digest', 'source_digest', 'superseded_by', 'skipped', 'plan', 'staged', 'signature', 'error'}
local COUNTED = {'referrers_copied', 'referrers_unchanged', 'referrers_left_out'}
local IS_SHOWN = {digest = true, source_digest = true, superseded_by = true}

local function add(key, field, change)
  redis.call('HSET', key, field, string.format('%d', count(number(key, field) + change)))
end

local function is_record(key) return redis.call('TYPE', key).ok == 'hash' end

local function is_held_by(task, fence, token)
  local found = redis.call('HMGET', task, 'state', 'fence', 'holder')
  return found[1] == 'running' and found[2] == fence and found[3] == token
end

local function kind_of(task) return redis.call('HGET', task, 'kind') or 'copy' end

-- An aborted job ends as one that a user has canceled: what waits is canceled, and what runs is stopped.
local function is_canceling_job(job)
  local found = redis.call('HMGET', KEY.job(job), 'cancel_requested_at', 'aborted_at')
  return is_set(found[1]) or is_set(found[2])
end

local function is_canceling(task) return is_canceling_job(redis.call('HGET', task, 'job')) end

-- Returns 0 if the task was taken away, 1 if its holder may continue, and 2 if its job is being canceled.
local function claim_state(task, fence, token)
  if not is_held_by(task, fence, token) then return 0 end
  return is_canceling(task) and 2 or 1
end

-- Note when an ended job is to be removed. A retention of '0' keeps it. A job without one has the default.
local function keep_after_end(job, moment)
  local kept = redis.call('HGET', KEY.job(job), 'retention')
  if kept == '0' then return end
  local seconds = count(kept)
  if seconds == 0 then seconds = RETENTION_SECONDS end
  redis.call('ZADD', KEY.jobs_ended, string.format('%d', moment + seconds * 1000), job)
end

local function queue_again(task, id, moment)
  redis.call('HSET', task, 'state', 'queued')
  redis.call('ZADD', KEY.tasks_queued, moment, id)
end

local function watch(job, seconds)
  redis.call('ZADD', KEY.jobs_watched, string.format('%d', now() + seconds * 1000), job)
end

-- The state of an atomic job whose images have ended, which is that of its release. While all images have succeeded and
-- the release has not ended, it is nil, and the release is queued.
local function released_state(job, release, failed, canceled, moment)
  if failed > 0 then return 'failed' end
  if canceled > 0 then return 'canceled' end
  local task = KEY.task(release)
  local state = redis.call('HGET', task, 'state')
  if state ~= 'queued' and state ~= 'running' then return state end
  local is_pending = state == 'queued' and not redis.call('ZSCORE', KEY.tasks_queued, release)
    and not redis.call('ZSCORE', KEY.tasks_parked, release)
  if is_pending and not is_canceling_job(job) then
    queue_again(task, release, moment)
    redis.call('HSET', KEY.job(job), 'release_due', '1')
  end
  return nil
end

local function ended_state(job, succeeded, failed, canceled, moment)
  local release = redis.call('HGET', KEY.job(job), 'release')
  if is_set(release) then return released_state(job, release, failed, canceled, moment) end
  if failed == 0 then return canceled == 0 and 'succeeded' or 'canceled' end
  return succeeded == 0 and 'failed' or 'partial'
end

-- Set the job's state from its counters. A job whose retry still has tasks to restart does not end.
local function conclude(job, moment)
  local key = KEY.job(job)
  local succeeded, failed, canceled, total, running =
    numbers(key, 'succeeded', 'failed', 'canceled', 'total', 'running')
  if succeeded + failed + canceled < total then
    if running == 0 then set_job_state(job, 'queued') end
    return
  end
  if redis.call('HGET', key, 'step') == 'retry' then return end
  local state = ended_state(job, succeeded, failed, canceled, moment)
  if not state then
    if running == 0 then set_job_state(job, 'queued') end
    return
  end
  redis.call('HSET', key, 'finished_at', moment, 'waiting_for', '')
  redis.call('HDEL', key, 'step', 'step_after')
  redis.call('DEL', KEY.job_share(job), KEY.job_bulk(job))
  redis.call('ZREM', KEY.jobs_watched, job)
  keep_after_end(job, moment)
  set_job_state(job, state)
end

-- The task keeps the name of its last holder, so that a script that is sent twice recognises its own work.
local function leave_running(job, id, moment)
  redis.call('ZREM', KEY.tasks_running, id)
  add(KEY.job(job), 'running', -1)
  conclude(job, moment)
end

-- Count the end of a task in its job.
local function count_end(key, kind, state)
  if kind == 'release' then return end
  if kind == 'expand' and state == 'succeeded' then add(key, 'total', -1) else add(key, state, 1) end
end

-- Cancel the rest of a job that is to end at its first failure. The reconciler takes the steps.
local function abort_job(job, moment)
  local key = KEY.job(job)
  if redis.call('HGET', key, 'on_error') ~= 'abort' or is_canceling_job(job) then return end
  redis.call('HSET', key, 'aborted_at', moment, 'waiting_for', '', 'step', 'cancel', 'step_after', '')
  redis.call('UNLINK', KEY.job_pending(job))
  watch(job, 0)
end

local function leave_lane(job, id)
  redis.call('SREM', KEY.job_share(job), id)
  redis.call('ZREM', KEY.job_bulk(job), id)
end

-- Add what a dry run found for an image to the totals of its job. Its blobs were counted before (count_plan_blobs.lua).
local function count_plan(key, plan)
  local found = cjson.decode(plan)
  add(key, 'plan_' .. found.action, 1)
  for _, field in ipairs({'own_requests', 'pull_quota'}) do add(key, 'plan_' .. field, count(found[field])) end
end

-- End a task and return the id of its job.
local function end_task(task, id, state, outcome, moment)
  local found = redis.call('HMGET', task, 'job', 'state')
  local key, kind = KEY.job(found[1]), kind_of(task)
  leave_lane(found[1], id)
  local fields = {state = state, finished_at = moment, waiting_for = ''}
  if outcome.unchanged then
    fields.unchanged = '1'
    add(key, 'unchanged', 1)
  end
  if outcome.skipped then add(key, 'skipped', 1) end
  if outcome.plan then count_plan(key, outcome.plan) end
  if outcome.release_window then redis.call('HSET', key, 'release_window', outcome.release_window) end
  for _, field in ipairs(OUTCOMES) do
    if outcome[field] then
      fields[field] = outcome[field]
      local shown = field == 'error' or (IS_SHOWN[field] and number(key, 'total') == 1)
      local is_kept = field == 'error' and is_set(redis.call('HGET', key, field))
      if shown and not is_kept then redis.call('HSET', key, field, outcome[field]) end
    end
  end
  for _, field in ipairs(COUNTED) do
    if outcome[field] then
      fields[field] = outcome[field]
      add(key, field, outcome[field])
    end
  end
  write(task, fields)
  count_end(key, kind, state)
  if state == 'failed' then abort_job(found[1], moment) end
  if found[2] == 'running' then
    leave_running(found[1], id, moment)
  else
    redis.call('ZREM', KEY.tasks_queued, id)
    redis.call('ZREM', KEY.tasks_parked, id)
    conclude(found[1], moment)
  end
  return found[1]
end

-- Choose the lane of a task that gets a queue entry. A task that has a part in its job's share keeps it.
local function lane_of(job, id)
  local priority, share = redis.call('HGET', KEY.job(job), 'priority'), KEY.job_share(job)
  local lane = is_set(priority) and priority or 'normal'
  if redis.call('SISMEMBER', share, id) == 1 then return lane end
  if redis.call('SCARD', share) >= FAIR_SHARE then
    redis.call('ZADD', KEY.job_bulk(job), 0, id)
    return lane .. '-bulk'
  end
  redis.call('SADD', share, id)
  redis.call('ZREM', KEY.job_bulk(job), id)
  return lane
end

-- Append id, fence and lane of a task to a list of queue entries. Every entry is made here.
local function add_entry(entries, id)
  local job, fence = unpack(redis.call('HMGET', KEY.task(id), 'job', 'fence'))
  entries[#entries + 1] = id
  entries[#entries + 1] = count(fence)
  entries[#entries + 1] = lane_of(job, id)
  return entries
end

-- Release pending tasks while the window has room.
local function release_pending(job, entries)
  local key, pending = KEY.job(job), KEY.job_pending(job)
  local waiting = redis.call('LLEN', pending)
  if waiting == 0 then return end
  local total, succeeded, failed, canceled, window =
    numbers(key, 'total', 'succeeded', 'failed', 'canceled', 'window')
  if window == 0 then window = WINDOW end
  local room = window - (total - succeeded - failed - canceled - waiting)
  if room <= 0 then return end
  local moment = string.format('%d', now())
  for _, id in ipairs(redis.call('LPOP', pending, math.min(room, STEP)) or {}) do
    if redis.call('HGET', KEY.task(id), 'state') == 'queued' then
      redis.call('ZADD', KEY.tasks_queued, moment, id)
      add_entry(entries, id)
    end
  end
end

-- Give the free places in the job's share to its first queued tasks in the bulk lane. Their entries there are left.
-- What is taken from one lane is passed over in the other.
local function fill_share(job, entries)
  while redis.call('SCARD', KEY.job_share(job)) < FAIR_SHARE do
    local id = redis.call('ZPOPMIN', KEY.job_bulk(job))[1]
    if not id then break end
    if redis.call('ZSCORE', KEY.tasks_queued, id) then add_entry(entries, id) end
  end
  return entries
end

-- Fill the window and the share. Append the queue entries to *entries* and return it.
-- A lost answer leaves tasks without queue entries, and the reconciler enqueues them.
local function fill_window(job, entries)
  local release, is_due = unpack(redis.call('HMGET', KEY.job(job), 'release', 'release_due'))
  if is_set(is_due) then
    redis.call('HDEL', KEY.job(job), 'release_due')
    add_entry(entries, release)
  end
  if is_canceling_job(job) then return entries end
  release_pending(job, entries)
  return fill_share(job, entries)
end
