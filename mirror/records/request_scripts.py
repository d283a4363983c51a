"""What a user asks of a job that was accepted, each request one script that Redis runs alone.

Every request carries a token, which the job keeps: sent twice, it finds that it was granted and answers as before.
"""

from __future__ import annotations

from typing import Final

from mirror.coordination import keys
from mirror.records.job_scripts import LIBRARY

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
    redis.call('HINCRBY', key, field, string.format('%d', -number(task, field)))
    redis.call('HSET', task, field, '0')
  end
  redis.call('HINCRBY', key, ended, -1)
  redis.call('HINCRBY', task, 'fence', 1)
  redis.call('HINCRBY', task, 'attempt', 1)
  redis.call('HSET', task, 'losses', '0', 'holder', '', 'digest', '', 'error', '', 'started_at', '', 'finished_at', '')
  redis.call('DEL', task .. ':blobs', task .. ':waits_since')
  queue_again(task, id, moment)
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
redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'request', ARGV[2], 'cancel_requested_at', '', 'error', '', 'started_at', '', 'finished_at', '')
if number(key, 'total') == 1 then redis.call('HSET', key, 'digest', '') end
set_job_state(job, 'queued')
return answer
"""
)
