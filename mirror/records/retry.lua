-- @include mirror/records/job_steps.lua
-- Queue the failed and canceled tasks of an ended job again, in steps.
-- ARGV: job id, the request's token.
-- Returns whether it is granted, the state that the job had (empty if there is no such job), 1 if tasks are left for
-- another step, and then the queue entries to add.
local job, key = ARGV[1], KEY.job(ARGV[1])
local found = redis.call('HMGET', key, 'state', 'request', 'step')
local state = found[1] or ''
if state ~= '' and found[2] == ARGV[2] then return queued_entries(job, {1, state, is_set(found[3]) and 1 or 0}) end
if state ~= 'failed' and state ~= 'partial' and state ~= 'canceled' then return {0, state, 0} end
redis.call('ZREM', KEY.jobs_ended, job)
redis.call('PERSIST', KEY.job_tasks(job))
redis.call('PERSIST', key)
redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'request', ARGV[2], 'cancel_requested_at', '', 'aborted_at', '', 'error', '',
           'started_at', '', 'finished_at', '')
if number(key, 'total') == 1 then redis.call('HSET', key, 'digest', '', 'source_digest', '') end
set_job_state(job, 'queued')
begin_steps(job, 'retry')
local answer = {1, state}
for _, value in ipairs(take_step(job)) do answer[#answer + 1] = value end
return answer
