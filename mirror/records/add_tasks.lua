-- @include mirror/records/job_state.lua
-- @include mirror/records/new_tasks.lua
-- Store some tasks of a job that is not stored yet. Should the job never be stored, they are deleted later.
-- ARGV: job id, the fields that all tasks have, a list of each task's own fields, a list of the keys of the sources'
-- indexes; each as JSON but the id. Fields are texts. Then the id of the run of a schedule that the job belongs to, or
-- empty. Nothing is stored for a run that has its job already.
if is_being_deleted(ARGV[1]) then return 0 end
if ARGV[5] ~= '' and redis.call('HGET', KEY.run(ARGV[5]), 'state') ~= 'starting' then return 0 end
local own = cjson.decode(ARGV[3])
redis.call('ZADD', KEY.jobs_leftover, string.format('%d', now() + SUBMISSION_SECONDS * 1000), ARGV[1])
if redis.call('EXISTS', KEY.task(own[1].id)) == 1 then return 0 end
store_tasks(ARGV[1], cjson.decode(ARGV[2]), own, cjson.decode(ARGV[4]))
return 1
