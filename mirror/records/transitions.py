"""Every change of a task's state, each one script that Redis runs alone.

The scripts keep four things true together: the task's record, its job's counters and state, the indexes that jobs are
listed by, and the one sorted set (queued, running or parked) that the reconciler watches the task in. A change by a
worker carries its fence and its token; it is refused when the task has been claimed anew or taken away. A script
that is sent twice, since its first answer was lost, finds its own work done and answers as before.
"""

from __future__ import annotations

from typing import Final

from mirror.coordination import keys
from mirror.coordination.redis import NOW

_LIBRARY: Final = (
    NOW
    + f"""
local function set_job_state(job, state)
  local key = '{keys.JOB}' .. job
  local before = redis.call('HGET', key, 'state')
  if before == state then return end
  if before then redis.call('ZREM', '{keys.JOBS_BY_STATE}' .. before, job) end
  redis.call('ZADD', '{keys.JOBS_BY_STATE}' .. state, 0, job)
  redis.call('HSET', key, 'state', state)
end

local function number(key, field)
  return tonumber(redis.call('HGET', key, field) or '0') or 0
end

local function is_held_by(task, fence, token)
  local found = redis.call('HMGET', task, 'state', 'fence', 'holder')
  return found[1] == 'running' and found[2] == fence and found[3] == token
end

-- The task no longer runs: what its job shows follows from its counters.
local function leave_running(task, id, moment)
  local job = redis.call('HGET', task, 'job')
  local key = '{keys.JOB}' .. job
  redis.call('ZREM', '{keys.TASKS_RUNNING}', id)
  redis.call('HSET', task, 'holder', '')
  local running = redis.call('HINCRBY', key, 'running', -1)
  local total, succeeded, failed = number(key, 'total'), number(key, 'succeeded'), number(key, 'failed')
  if succeeded + failed < total then
    if running == 0 then set_job_state(job, 'queued') end
    return job
  end
  redis.call('HSET', key, 'finished_at', moment, 'waiting_for', '')
  if failed == 0 then set_job_state(job, 'succeeded')
  elseif succeeded == 0 then set_job_state(job, 'failed')
  else set_job_state(job, 'partial') end
  return job
end

local function end_task(task, id, state, outcome)
  local moment = string.format('%d', now())
  local key = '{keys.JOB}' .. redis.call('HGET', task, 'job')
  redis.call('HSET', task, 'state', state, 'finished_at', moment, 'waiting_for', '')
  for _, field in ipairs({{'digest', 'superseded_by', 'error'}}) do
    if outcome[field] then
      redis.call('HSET', task, field, outcome[field])
      local shown = field == 'error' or number(key, 'total') == 1
      if shown and redis.call('HGET', key, field) == '' then redis.call('HSET', key, field, outcome[field]) end
    end
  end
  redis.call('HINCRBY', key, state, 1)
  if outcome.unchanged then
    redis.call('HSET', task, 'unchanged', '1')
    redis.call('HINCRBY', key, 'unchanged', 1)
  end
  leave_running(task, id, moment)
end

local function queue_again(task, id, moment)
  redis.call('HSET', task, 'state', 'queued')
  redis.call('ZADD', '{keys.TASKS_QUEUED}', moment, id)
end
"""
)

SUBMIT: Final = (
    _LIBRARY
    + f"""
-- ARGV: job as JSON, tasks as a JSON list; both flat and of texts.
local job, tasks = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local key = '{keys.JOB}' .. job.id
if redis.call('EXISTS', key) == 1 then return 0 end
local moment = string.format('%d', now())
for field, value in pairs(job) do redis.call('HSET', key, field, value) end
redis.call('ZADD', '{keys.JOBS}', 0, job.id)
redis.call('ZADD', '{keys.JOBS_BY_STATE}' .. job.state, 0, job.id)
redis.call('ZADD', ARGV[3], 0, job.id)
for _, fields in ipairs(tasks) do
  local task = '{keys.TASK}' .. fields.id
  for field, value in pairs(fields) do redis.call('HSET', task, field, value) end
  redis.call('ZADD', key .. ':tasks', 0, fields.id)
  redis.call('ZADD', '{keys.TASKS_QUEUED}', moment, fields.id)
end
return 1
"""
)

CLAIM: Final = (
    _LIBRARY
    + f"""
-- ARGV: task id, the fence its queue entry carries, the claim's token, the lease in ms. Answers the new fence, or 0.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
local found = redis.call('HMGET', task, 'state', 'fence', 'holder', 'job', 'started_at')
if found[1] == 'running' and found[3] == ARGV[3] then return tonumber(found[2]) end
if found[1] ~= 'queued' or found[2] ~= ARGV[2] or redis.call('ZSCORE', '{keys.TASKS_PARKED}', id) then return 0 end
local moment = now()
local fence = redis.call('HINCRBY', task, 'fence', 1)
redis.call('HSET', task, 'state', 'running', 'holder', ARGV[3], 'waiting_for', '',
           'checkpoints_at_claim', number(task, 'checkpoints'))
redis.call('ZREM', '{keys.TASKS_QUEUED}', id)
redis.call('ZADD', '{keys.TASKS_RUNNING}', string.format('%d', moment + ARGV[4]), id)
local key = '{keys.JOB}' .. found[4]
if found[5] == '' then redis.call('HSET', task, 'started_at', string.format('%d', moment)) end
if redis.call('HGET', key, 'started_at') == '' then
  redis.call('HSET', key, 'started_at', string.format('%d', moment))
end
redis.call('HINCRBY', key, 'running', 1)
redis.call('HSET', key, 'waiting_for', '')
set_job_state(found[4], 'running')
return fence
"""
)

RENEW: Final = (
    _LIBRARY
    + f"""
-- ARGV: task id, fence, token, the lease in ms.
if not is_held_by('{keys.TASK}' .. ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('ZADD', '{keys.TASKS_RUNNING}', string.format('%d', now() + ARGV[4]), ARGV[1])
return 1
"""
)

PROGRESS: Final = (
    _LIBRARY
    + f"""
-- ARGV: task id, fence, token, blobs {{digest: JSON}} as JSON, task fields as JSON, checkpoints of this claim.
local task = '{keys.TASK}' .. ARGV[1]
if not is_held_by(task, ARGV[2], ARGV[3]) then return 0 end
local key = '{keys.JOB}' .. redis.call('HGET', task, 'job')
for digest, blob in pairs(cjson.decode(ARGV[4])) do redis.call('HSET', task .. ':blobs', digest, blob) end
for field, value in pairs(cjson.decode(ARGV[5])) do
  if field == 'digest' then
    if number(key, 'total') == 1 then redis.call('HSET', key, field, value) end
  else
    redis.call('HINCRBY', key, field, string.format('%d', tonumber(value) - number(task, field)))
  end
  redis.call('HSET', task, field, value)
end
redis.call('HSET', task, 'checkpoints', string.format('%d', number(task, 'checkpoints_at_claim') + ARGV[6]))
return 1
"""
)

SETTLE: Final = (
    _LIBRARY
    + f"""
-- ARGV: task id, fence, token, 'succeeded' or 'failed', outcome as JSON.
local task = '{keys.TASK}' .. ARGV[1]
if not is_held_by(task, ARGV[2], ARGV[3]) then
  local found = redis.call('HMGET', task, 'state', 'fence')
  return (found[1] == ARGV[4] and found[2] == ARGV[2]) and 1 or 0
end
end_task(task, ARGV[1], ARGV[4], cjson.decode(ARGV[5]))
return 1
"""
)

RELEASE: Final = (
    _LIBRARY
    + f"""
-- ARGV: task id, fence, token, wait in ms (0: none), waiting_for as JSON or empty. No loss, whatever the reason.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
if not is_held_by(task, ARGV[2], ARGV[3]) then
  local found = redis.call('HMGET', task, 'state', 'fence')
  return (found[1] == 'queued' and found[2] == ARGV[2]) and 1 or 0
end
local moment = now()
local job = leave_running(task, id, string.format('%d', moment))
redis.call('HSET', task, 'state', 'queued', 'waiting_for', ARGV[5])
if tonumber(ARGV[4]) == 0 then
  queue_again(task, id, string.format('%d', moment))
else
  redis.call('ZADD', '{keys.TASKS_PARKED}', string.format('%d', moment + ARGV[4]), id)
  redis.call('HSET', '{keys.JOB}' .. job, 'waiting_for', ARGV[5])
end
return 1
"""
)

UNPARK: Final = (
    _LIBRARY
    + f"""
-- ARGV: task id. Answers the fence its queue entry needs, or -1 if it is not due.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
local due = redis.call('ZSCORE', '{keys.TASKS_PARKED}', id)
if not due or tonumber(due) > now() then return -1 end
redis.call('ZREM', '{keys.TASKS_PARKED}', id)
queue_again(task, id, string.format('%d', now()))
return number(task, 'fence')
"""
)

EXPIRE: Final = (
    _LIBRARY
    + f"""
-- ARGV: task id, losses allowed, error as JSON.
-- Answers the fence its queue entry needs, -1 if the lease stands, -2 if the task failed.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
local moment = now()
local ends = redis.call('ZSCORE', '{keys.TASKS_RUNNING}', id)
if not ends or tonumber(ends) > moment then return -1 end
local losses = 0
if number(task, 'checkpoints') <= number(task, 'checkpoints_at_claim') then losses = number(task, 'losses') + 1 end
redis.call('HSET', task, 'losses', losses)
if losses >= tonumber(ARGV[2]) then
  end_task(task, id, 'failed', {{error = ARGV[3]}})
  return -2
end
local attempt = redis.call('HINCRBY', task, 'attempt', 1)
local job = leave_running(task, id, string.format('%d', moment))
if number('{keys.JOB}' .. job, 'attempt') < attempt then redis.call('HSET', '{keys.JOB}' .. job, 'attempt', attempt) end
queue_again(task, id, string.format('%d', moment))
return number(task, 'fence')
"""
)
