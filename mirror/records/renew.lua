-- @include mirror/records/job_state.lua
-- ARGV: task id, fence, token, the lease in ms. Returns the claim's state.
local state = claim_state(KEY.task(ARGV[1]), ARGV[2], ARGV[3])
if state == 0 then return 0 end
redis.call('ZADD', KEY.tasks_running, string.format('%d', now() + ARGV[4]), ARGV[1])
return state
