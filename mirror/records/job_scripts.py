"""What the scripts that change jobs and tasks have in common, and what they keep true together.

These are the task's record, its job's counters and state, the indexes that jobs are listed by, and the one sorted set
(queued, running or parked) that the reconciler watches the task in.
"""

from __future__ import annotations

from typing import Final

from mirror.redis import keys
from mirror.redis.client import NOW

RETENTION_SECONDS: Final = 30 * 86400
"""How long a job is kept after its end, where nobody said otherwise when it was submitted."""
FORGET_SECONDS: Final = 86400
"""How much longer Redis keeps the keys of an ended job: the scheduler's time to take it out of the lists."""

LIBRARY: Final = (
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

local function write(key, fields)
  local flat = {{}}
  for field, value in pairs(fields) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  redis.call('HSET', key, unpack(flat))
end

-- Counts and bytes are whole numbers that a double holds exactly. Whatever else stands in a field counts as the nearest
-- of those, so that no record makes a script fail.
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

local function add(key, field, change)
  redis.call('HSET', key, field, string.format('%d', count(number(key, field) + change)))
end

-- A record is there, and is one.
local function is_record(key) return redis.call('TYPE', key).ok == 'hash' end

-- The source as its spec has it, or its record where that is of a release before specs.
local function source_of(task)
  local found = redis.call('HMGET', task, 'spec', 'source')
  local is_json, spec = pcall(cjson.decode, found[1] or '')
  return is_json and spec.source or found[2]
end

local function is_held_by(task, fence, token)
  local found = redis.call('HMGET', task, 'state', 'fence', 'holder')
  return found[1] == 'running' and found[2] == fence and found[3] == token
end

local function is_canceling(task)
  local asked = redis.call('HGET', '{keys.JOB}' .. redis.call('HGET', task, 'job'), 'cancel_requested_at')
  return asked and asked ~= ''
end

-- What a holder learns: 0 that the task was taken away, 1 that it may go on, 2 that its job is being canceled.
local function standing(task, fence, token)
  if not is_held_by(task, fence, token) then return 0 end
  return is_canceling(task) and 2 or 1
end

-- A job that has ended is kept for its retention, and its keys a day longer: whoever forgets it reads them.
local function keep_after_end(job, moment)
  local key = '{keys.JOB}' .. job
  local retention = number(key, 'retention')
  if retention == 0 then retention = {RETENTION_SECONDS} end
  redis.call('ZADD', '{keys.JOBS_ENDED}', string.format('%d', moment + retention * 1000), job)
  local life = string.format('%d', retention + {FORGET_SECONDS})
  for _, id in ipairs(redis.call('ZRANGEBYLEX', key .. ':tasks', '-', '+')) do
    for _, part in ipairs({{'', ':blobs'}}) do redis.call('EXPIRE', '{keys.TASK}' .. id .. part, life) end
  end
  redis.call('EXPIRE', key .. ':tasks', life)
  redis.call('EXPIRE', key, life)
end

-- What a job shows follows from its counters.
local function conclude(job, moment)
  local key = '{keys.JOB}' .. job
  local succeeded, failed, canceled, total, running =
    numbers(key, 'succeeded', 'failed', 'canceled', 'total', 'running')
  if succeeded + failed + canceled < total then
    if running == 0 then set_job_state(job, 'queued') end
    return
  end
  redis.call('HSET', key, 'finished_at', moment, 'waiting_for', '')
  keep_after_end(job, moment)
  if failed == 0 and canceled == 0 then set_job_state(job, 'succeeded')
  elseif failed == 0 then set_job_state(job, 'canceled')
  elseif succeeded == 0 then set_job_state(job, 'failed')
  else set_job_state(job, 'partial') end
end

-- Whoever held the task stays named as its holder: that is how a script that is sent twice finds its own work.
local function leave_running(job, id, moment)
  redis.call('ZREM', '{keys.TASKS_RUNNING}', id)
  add('{keys.JOB}' .. job, 'running', -1)
  conclude(job, moment)
end

local function end_task(task, id, state, outcome, moment)
  local found = redis.call('HMGET', task, 'job', 'state')
  local key = '{keys.JOB}' .. found[1]
  local fields = {{state = state, finished_at = moment, waiting_for = ''}}
  if outcome.unchanged then
    fields.unchanged = '1'
    add(key, 'unchanged', 1)
  end
  for _, field in ipairs({{'digest', 'superseded_by', 'error'}}) do
    if outcome[field] then
      fields[field] = outcome[field]
      local shown = field == 'error' or number(key, 'total') == 1
      if shown and redis.call('HGET', key, field) == '' then redis.call('HSET', key, field, outcome[field]) end
    end
  end
  write(task, fields)
  add(key, state, 1)
  if found[2] == 'running' then
    leave_running(found[1], id, moment)
  else
    redis.call('ZREM', '{keys.TASKS_QUEUED}', id)
    redis.call('ZREM', '{keys.TASKS_PARKED}', id)
    conclude(found[1], moment)
  end
end

local function queue_again(task, id, moment)
  redis.call('HSET', task, 'state', 'queued')
  redis.call('ZADD', '{keys.TASKS_QUEUED}', moment, id)
end
"""
)
