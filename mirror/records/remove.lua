-- @include mirror/records/job_state.lua
-- Take an ended job out of every list and delete its record. Its tasks are deleted later, in steps.
-- ARGV: job id, 1 to do that only if its retention is over.
-- Returns the state that the job had, or an empty text if there is no such job. An unfinished job is left alone.
local job, key = ARGV[1], KEY.job(ARGV[1])
if ARGV[2] == '1' then
  local due = redis.call('ZSCORE', KEY.jobs_ended, job)
  if not due or tonumber(due) > now() then return '' end
end
local state = is_record(key) and redis.call('HGET', key, 'state') or ''
if state == 'queued' or state == 'running' then return state end
if state == '' and ARGV[2] ~= '1' then return '' end
if state ~= '' then redis.call('ZREM', KEY.jobs_by_state(state), job) end
redis.call('DEL', key, KEY.job_share(job), KEY.job_bulk(job))
redis.call('UNLINK', KEY.plan_blobs(job))
redis.call('ZREM', KEY.plans, job)
redis.call('ZREM', KEY.jobs, job)
redis.call('ZREM', KEY.jobs_ended, job)
redis.call('ZREM', KEY.jobs_watched, job)
redis.call('ZADD', KEY.jobs_leftover, string.format('%d', now()), job)
return state
