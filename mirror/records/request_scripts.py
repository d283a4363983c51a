"""What happens to a job as a whole after it was accepted, each change one script that Redis runs alone.

Every request of a user carries a token, which the job keeps: sent twice, it finds that it was granted and answers as
before. An ended job is forgotten when its retention is over.
"""

from __future__ import annotations

from typing import Final

from mirror.records.job_scripts import LIBRARY
from mirror.redis import keys

CANCEL: Final = (
    LIBRARY
    + f"""
-- ARGV: job id, the request's token. Answers whether it is granted, and the state that it met; empty for no such job.
-- What nobody works on is canceled now; a worker learns of it by its standing.
local job, key = ARGV[1], '{keys.JOB}' .. ARGV[1]
local found = redis.call('HMGET', key, 'state', 'request', 'cancel_requested_at')
local state = found[1] or ''
if state ~= '' and found[2] == ARGV[2] or state == 'canceled' then return {{1, state}} end
if state ~= 'queued' and state ~= 'running' then return {{0, state}} end
local moment = string.format('%d', now())
redis.call('HSET', key, 'request', ARGV[2], 'waiting_for', '')
if not found[3] or found[3] == '' then redis.call('HSET', key, 'cancel_requested_at', moment) end
for _, id in ipairs(redis.call('ZRANGEBYLEX', key .. ':tasks', '-', '+')) do
  local task = '{keys.TASK}' .. id
  if redis.call('HGET', task, 'state') == 'queued' then
    redis.call('HSET', task, 'holder', '')
    end_task(task, id, 'canceled', {{}}, moment)
  end
end
return {{1, state}}
"""
)

RETRY: Final = (
    LIBRARY
    + f"""
-- ARGV: job id, the request's token. Answers whether it is granted, the state that it met, and then for every task that
-- is queued now its id and the fence its queue entry needs. The fence grows: no entry of before can claim the task.
local job, key = ARGV[1], '{keys.JOB}' .. ARGV[1]
local found = redis.call('HMGET', key, 'state', 'request')
local state = found[1] or ''
local again = state ~= '' and found[2] == ARGV[2]
if not again and state ~= 'failed' and state ~= 'partial' and state ~= 'canceled' then return {{0, state}} end
local moment = string.format('%d', now())

local function start_anew(task, id, ended)
  for _, field in ipairs({{'bytes_total', 'bytes_copied', 'bytes_skipped'}}) do
    add(key, field, -number(task, field))
    redis.call('HSET', task, field, '0')
  end
  add(key, ended, -1)
  redis.call('HINCRBY', task, 'fence', 1)
  redis.call('HINCRBY', task, 'attempt', 1)
  redis.call('HSET', task, 'losses', '0', 'holder', '', 'digest', '', 'error', '', 'started_at', '', 'finished_at', '',
             'blob_counts', '')
  redis.call('DEL', task .. ':blobs', task .. ':waits')
  queue_again(task, id, moment)
end

-- Undo `keep_after_end`.
local function keep_without_end(job)
  redis.call('ZREM', '{keys.JOBS_ENDED}', job)
  for _, id in ipairs(redis.call('ZRANGEBYLEX', key .. ':tasks', '-', '+')) do
    for _, part in ipairs({{'', ':blobs'}}) do redis.call('PERSIST', '{keys.TASK}' .. id .. part) end
  end
  redis.call('PERSIST', key .. ':tasks')
  redis.call('PERSIST', key)
end

local answer = {{1, state}}
for _, id in ipairs(redis.call('ZRANGEBYLEX', key .. ':tasks', '-', '+')) do
  local task = '{keys.TASK}' .. id
  local ended = redis.call('HGET', task, 'state')
  if not again and (ended == 'failed' or ended == 'canceled') then start_anew(task, id, ended) end
  if redis.call('HGET', task, 'state') == 'queued' then
    table.insert(answer, id)
    table.insert(answer, number(task, 'fence'))
  end
end
if again then return answer end
keep_without_end(job)
redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'request', ARGV[2], 'cancel_requested_at', '', 'error', '', 'started_at', '', 'finished_at', '')
if number(key, 'total') == 1 then redis.call('HSET', key, 'digest', '') end
set_job_state(job, 'queued')
return answer
"""
)

FORGET: Final = (
    LIBRARY
    + f"""
-- ARGV: job id. Takes an ended job out of every list and deletes its keys, if its retention is over. Answers whether.
local job, key = ARGV[1], '{keys.JOB}' .. ARGV[1]
local due = redis.call('ZSCORE', '{keys.JOBS_ENDED}', job)
if not due or tonumber(due) > now() then return 0 end
for _, id in ipairs(redis.call('ZRANGEBYLEX', key .. ':tasks', '-', '+')) do
  local task = '{keys.TASK}' .. id
  local source = is_record(task) and source_of(task)
  if source then redis.call('ZREM', '{keys.JOBS_BY_SOURCE}' .. source, job) end
  redis.call('DEL', task, task .. ':blobs', task .. ':waits')
end
local state = is_record(key) and redis.call('HGET', key, 'state')
if state then redis.call('ZREM', '{keys.JOBS_BY_STATE}' .. state, job) end
redis.call('DEL', key, key .. ':tasks')
redis.call('ZREM', '{keys.JOBS}', job)
redis.call('ZREM', '{keys.JOBS_ENDED}', job)
return 1
"""
)
