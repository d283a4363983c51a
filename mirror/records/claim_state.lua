-- @include mirror/records/job_state.lua
-- ARGV: task id, fence, token. Returns the claim's state and writes nothing.
return claim_state(KEY.task(ARGV[1]), ARGV[2], ARGV[3])
