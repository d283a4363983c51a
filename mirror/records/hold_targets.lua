-- @include mirror/records/job_state.lua
-- @include mirror/records/new_tasks.lua
-- Claim names of targets for the copies of a job that is not stored yet. Should it never be stored, they are deleted.
-- ARGV: job id, a list of targets and their owners (task id, blank, source), in turn, as JSON. Returns 1.
local job, list = ARGV[1], cjson.decode(ARGV[2])
if redis.call('EXISTS', KEY.job(job)) == 1 or is_being_deleted(job) then return 1 end
redis.call('ZADD', KEY.jobs_leftover, string.format('%d', now() + SUBMISSION_SECONDS * 1000), job)
redis.call('HSET', KEY.job_targets(job), unpack(list))
return 1
