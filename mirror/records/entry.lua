-- @include mirror/records/job_state.lua
-- ARGV: task id. Returns the queue entry of a queued task, or nothing if it is not queued any more.
if not redis.call('ZSCORE', KEY.tasks_queued, ARGV[1]) then return {} end
return add_entry({}, ARGV[1])
