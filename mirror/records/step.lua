-- @include mirror/records/job_steps.lua
-- ARGV: job id. Returns 1 if tasks are left for another step, else 0, and then the queue entries to add.
if not is_record(KEY.job(ARGV[1])) then
  redis.call('ZREM', KEY.jobs_watched, ARGV[1])
  return {0}
end
return take_step(ARGV[1])
