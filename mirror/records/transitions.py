"""Every change of a task's state on its way through the workers, each one script that Redis runs alone.

A change by a worker carries its fence and its token; it is refused when the task has been claimed anew or taken away.
A script that is sent twice, since its first answer was lost, finds its own work done and answers as before.

Behind a request to cancel its job a task ends: whatever would have queued, parked or failed it makes it ``canceled``.
Only an image that was published all the same is a success.
"""

from __future__ import annotations

from typing import Final

from mirror.errors import LONGEST_REST
from mirror.records.job_scripts import LIBRARY
from mirror.redis import keys

SUBMIT: Final = (
    LIBRARY
    + f"""
-- ARGV: the job as JSON, what its tasks have in common, each task's own fields as a JSON list, all of them flat and of
-- texts; the keys of the sources' indexes as a JSON list.
local job, common = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local key = '{keys.JOB}' .. job.id
if redis.call('EXISTS', key) == 1 then return 0 end
local moment = string.format('%d', now())
write(key, job)
redis.call('ZADD', '{keys.JOBS}', 0, job.id)
redis.call('ZADD', '{keys.JOBS_BY_STATE}' .. job.state, 0, job.id)
for _, index in ipairs(cjson.decode(ARGV[4])) do redis.call('ZADD', index, 0, job.id) end
for _, own in ipairs(cjson.decode(ARGV[3])) do
  local task = '{keys.TASK}' .. own.id
  write(task, common)
  write(task, own)
  redis.call('ZADD', key .. ':tasks', 0, own.id)
  redis.call('ZADD', '{keys.TASKS_QUEUED}', moment, own.id)
end
return 1
"""
)

CLAIM: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, the fence its queue entry carries, the claim's token, the lease in ms. Answers the claimed task's
-- fields and values, none if it is not granted.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
local found = redis.call('HMGET', task, 'state', 'fence', 'holder', 'job', 'started_at', 'checkpoints')
if found[1] == 'running' and found[3] == ARGV[3] then return redis.call('HGETALL', task) end
if found[1] ~= 'queued' or found[2] ~= ARGV[2] or redis.call('ZSCORE', '{keys.TASKS_PARKED}', id) then return {{}} end
local moment = now()
redis.call('HSET', task, 'state', 'running', 'fence', string.format('%d', ARGV[2] + 1), 'holder', ARGV[3],
           'waiting_for', '', 'checkpoints_at_claim', found[6] or '0',
           'started_at', found[5] ~= '' and found[5] or string.format('%d', moment))
redis.call('ZREM', '{keys.TASKS_QUEUED}', id)
redis.call('ZADD', '{keys.TASKS_RUNNING}', string.format('%d', moment + ARGV[4]), id)
local key = '{keys.JOB}' .. found[4]
if redis.call('HGET', key, 'started_at') == '' then
  redis.call('HSET', key, 'started_at', string.format('%d', moment))
end
redis.call('HINCRBY', key, 'running', 1)
redis.call('HSET', key, 'waiting_for', '')
set_job_state(found[4], 'running')
return redis.call('HGETALL', task)
"""
)

RENEW: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, fence, token, the lease in ms. Answers its standing.
local standing = standing('{keys.TASK}' .. ARGV[1], ARGV[2], ARGV[3])
if standing == 0 then return 0 end
redis.call('ZADD', '{keys.TASKS_RUNNING}', string.format('%d', now() + ARGV[4]), ARGV[1])
return standing
"""
)

STANDING: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, fence, token. Writes nothing.
return standing('{keys.TASK}' .. ARGV[1], ARGV[2], ARGV[3])
"""
)

PROGRESS: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, fence, token, fields of the blobs' hash as JSON, task fields as JSON, checkpoints of this claim,
-- 1 if these are all blobs. Answers its standing.
local task = '{keys.TASK}' .. ARGV[1]
local standing = standing(task, ARGV[2], ARGV[3])
if standing == 0 then return 0 end
local key = '{keys.JOB}' .. redis.call('HGET', task, 'job')
if ARGV[7] == '1' and redis.call('HLEN', task .. ':blobs') > 0 then redis.call('DEL', task .. ':blobs') end
for place, blob in pairs(cjson.decode(ARGV[4])) do redis.call('HSET', task .. ':blobs', place, blob) end
for field, value in pairs(cjson.decode(ARGV[5])) do
  if field == 'digest' then
    if number(key, 'total') == 1 then redis.call('HSET', key, field, value) end
  elseif field ~= 'blob_counts' then
    value = string.format('%d', count(value))
    add(key, field, value - number(task, field))
  end
  redis.call('HSET', task, field, value)
end
redis.call('HSET', task, 'checkpoints', string.format('%d', number(task, 'checkpoints_at_claim') + ARGV[6]))
return standing
"""
)

SETTLE: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, fence, token, 'succeeded', 'failed' or 'canceled', outcome as JSON.
local task, state, outcome = '{keys.TASK}' .. ARGV[1], ARGV[4], cjson.decode(ARGV[5])
if not is_held_by(task, ARGV[2], ARGV[3]) then
  local found = redis.call('HMGET', task, 'state', 'holder')
  return (found[1] ~= 'queued' and found[2] == ARGV[3]) and 1 or 0
end
if state ~= 'succeeded' and is_canceling(task) then state, outcome = 'canceled', {{}} end
end_task(task, ARGV[1], state, outcome, string.format('%d', now()))
return 1
"""
)

RELEASE: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, fence, token, wait in ms (0: none), waiting_for as JSON or empty, the error as JSON or empty with
-- which the task fails after the wait. No loss, whatever the reason: a worker that gives its task back is alive, and
-- losses before it are in a row with none behind it.
-- Answers 0 if the task was taken away, or is canceled now.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
if not is_held_by(task, ARGV[2], ARGV[3]) then
  local found = redis.call('HMGET', task, 'state', 'holder')
  return (found[1] == 'queued' and found[2] == ARGV[3]) and 1 or 0
end
local moment = now()
if is_canceling(task) then
  end_task(task, id, 'canceled', {{}}, string.format('%d', moment))
  return 0
end
local job = redis.call('HGET', task, 'job')
leave_running(job, id, string.format('%d', moment))
redis.call('HSET', task, 'state', 'queued', 'waiting_for', ARGV[5], 'losses', '0', 'fails_with', ARGV[6])
if tonumber(ARGV[4]) == 0 then
  queue_again(task, id, string.format('%d', moment))
else
  redis.call('ZADD', '{keys.TASKS_PARKED}', string.format('%d', moment + ARGV[4]), id)
  redis.call('HSET', '{keys.JOB}' .. job, 'waiting_for', ARGV[5])
end
return 1
"""
)

REST: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, reason, the wait in ms, the patience in ms. Answers the time, for how many ms the task may rest, which
-- is 0 when its patience has ended, and whether that ends with the rest. A wait long after the last one for that reason
-- begins a new row.
local waits, reason, patience, moment = '{keys.TASK}' .. ARGV[1] .. ':waits', ARGV[2], tonumber(ARGV[4]), now()
local found = redis.call('HMGET', waits, reason, reason .. ':until')
local since, before = tonumber(found[1] or ''), tonumber(found[2] or '')
if not since or not before or moment - before > patience then since = moment end
local rest = math.max(0, math.min(tonumber(ARGV[3]), since + patience - moment))
redis.call('HSET', waits, reason, string.format('%d', since), reason .. ':until', string.format('%d', moment + rest))
redis.call('PEXPIRE', waits, string.format('%d', math.max(redis.call('PTTL', waits), rest + patience)))
return {{moment, rest, rest < tonumber(ARGV[3]) and 1 or 0}}
"""
)

UNPARK: Final = (
    LIBRARY
    + f"""
-- ARGV: task id. Answers the fence its queue entry needs, -1 if it is not due, or -2 if it failed: its patience ended
-- while it was parked. One that is parked for longer than any task may rest is due as well.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
local due = redis.call('ZSCORE', '{keys.TASKS_PARKED}', id)
local early = due and tonumber(due) - now()
if not early or (early > 0 and early <= {LONGEST_REST * 1000:.0f}) then return -1 end
local fails_with = redis.call('HGET', task, 'fails_with')
if fails_with and fails_with ~= '' then
  end_task(task, id, 'failed', {{error = fails_with}}, string.format('%d', now()))
  return -2
end
redis.call('ZREM', '{keys.TASKS_PARKED}', id)
queue_again(task, id, string.format('%d', now()))
return number(task, 'fence')
"""
)

EXPIRE: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, losses allowed, error as JSON.
-- Answers the fence its queue entry needs, -1 if the lease stands, -2 if the task has ended.
local id, task = ARGV[1], '{keys.TASK}' .. ARGV[1]
local moment = now()
local ends = redis.call('ZSCORE', '{keys.TASKS_RUNNING}', id)
if not ends or tonumber(ends) > moment then return -1 end
redis.call('HSET', task, 'holder', '')
if is_canceling(task) then
  end_task(task, id, 'canceled', {{}}, string.format('%d', moment))
  return -2
end
local losses = 0
if number(task, 'checkpoints') <= number(task, 'checkpoints_at_claim') then losses = number(task, 'losses') + 1 end
redis.call('HSET', task, 'losses', losses)
if losses >= tonumber(ARGV[2]) then
  end_task(task, id, 'failed', {{error = ARGV[3]}}, string.format('%d', moment))
  return -2
end
local attempt = redis.call('HINCRBY', task, 'attempt', 1)
local job = redis.call('HGET', task, 'job')
leave_running(job, id, string.format('%d', moment))
if number('{keys.JOB}' .. job, 'attempt') < attempt then redis.call('HSET', '{keys.JOB}' .. job, 'attempt', attempt) end
queue_again(task, id, string.format('%d', moment))
return number(task, 'fence')
"""
)

ABANDON: Final = (
    LIBRARY
    + f"""
-- ARGV: task id, fence, token, job id, error as JSON, the record as it was claimed, flat and of texts, as JSON.
-- Ends as failed a task whose record cannot be written, whatever stands in its place. Answers whether it did.
local id, task, job = ARGV[1], '{keys.TASK}' .. ARGV[1], ARGV[4]
if not is_record('{keys.JOB}' .. job) then
  for _, watched in ipairs({{'{keys.TASKS_QUEUED}', '{keys.TASKS_RUNNING}', '{keys.TASKS_PARKED}'}}) do
    redis.call('ZREM', watched, id)
  end
  return 0
end
if not is_record(task) then
  redis.call('DEL', task)
  write(task, cjson.decode(ARGV[6]))
  redis.call('HSET', task, 'holder', ARGV[3])
elseif not is_held_by(task, ARGV[2], ARGV[3]) then
  return 0
end
for _, part in ipairs({{':blobs', ':waits'}}) do
  if not is_record(task .. part) then redis.call('DEL', task .. part) end
end
end_task(task, id, 'failed', {{error = ARGV[5]}}, string.format('%d', now()))
return 1
"""
)

POSTPONE: Final = f"""
-- ARGV: task id, when to look at it again in ms. For every set in which the reconciler watches it.
for _, watched in ipairs({{'{keys.TASKS_QUEUED}', '{keys.TASKS_RUNNING}', '{keys.TASKS_PARKED}'}}) do
  redis.call('ZADD', watched, 'XX', ARGV[2], ARGV[1])
end
return 1
"""
