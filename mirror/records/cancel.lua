-- @include mirror/records/job_steps.lua
-- Cancel a job: tasks that wait are canceled now, in steps. Workers learn of it from the state of their claims.
-- ARGV: job id, the request's token.
-- Returns whether it is granted, the state that the job had (empty if there is no such job), and 1 if tasks are left
-- for another step.
local job, key = ARGV[1], KEY.job(ARGV[1])
local found = redis.call('HMGET', key, 'state', 'request', 'cancel_requested_at', 'step')
local state = found[1] or ''
if state ~= '' and found[2] == ARGV[2] or state == 'canceled' then
  return {1, state, is_set(found[4]) and 1 or 0}
end
if state ~= 'queued' and state ~= 'running' then return {0, state, 0} end
redis.call('HSET', key, 'request', ARGV[2], 'waiting_for', '')
if not is_set(found[3]) then
  redis.call('HSET', key, 'cancel_requested_at', string.format('%d', now()))
  begin_steps(job, 'cancel')
end
return {1, state, take_step(job)[1]}
