-- @include mirror/records/job_steps.lua
-- @include mirror/records/new_tasks.lua
-- Store a job with the last of its tasks. From now on it is accepted.
-- ARGV: the job, the fields that all tasks have, a list of each task's own fields, a list of the keys of the sources'
-- indexes, and the release task of an atomic job or empty; each as JSON. Fields are texts. Then the id of the run of a
-- schedule that the job belongs to, or empty. The run becomes running.
-- Returns 1 and the queue entries to add, or 0 if tasks that were added before are gone, or the run has its job already.
local job, own = cjson.decode(ARGV[1]), cjson.decode(ARGV[3])
local key = KEY.job(job.id)
if redis.call('EXISTS', key) == 1 then return queued_entries(job.id, {1}) end
if ARGV[6] ~= '' and redis.call('HGET', KEY.run(ARGV[6]), 'state') ~= 'starting' then return {0} end
if is_being_deleted(job.id) then return {0} end
if redis.call('ZCARD', KEY.job_tasks(job.id)) + #own ~= tonumber(job.total) then return {0} end
redis.call('ZREM', KEY.jobs_leftover, job.id)
write(key, job)
if ARGV[6] ~= '' then
  redis.call('HSET', KEY.run(ARGV[6]), 'state', 'running')
  redis.call('HDEL', KEY.run(ARGV[6]), 'definition')
end
redis.call('ZADD', KEY.jobs, 0, job.id)
redis.call('ZADD', KEY.jobs_by_state(job.state), 0, job.id)
if job.kind == 'plan' then redis.call('ZADD', KEY.plans, 0, job.id) end
store_tasks(job.id, cjson.decode(ARGV[2]), own, cjson.decode(ARGV[4]))
if ARGV[5] ~= '' then
  local release = cjson.decode(ARGV[5])
  write(KEY.task(release.id), release)
  redis.call('ZADD', KEY.job_tasks(job.id), 0, release.id)
end
local entries = take_step(job.id)
entries[1] = 1
return entries
