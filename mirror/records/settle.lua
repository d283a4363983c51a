-- @include mirror/records/job_state.lua
-- ARGV: task id, fence, token, 'succeeded', 'failed' or 'canceled', the outcome as JSON.
-- Returns 1 if the task ended so, or 0 if it was taken away, and then the queue entries to add.
local task, state, outcome = KEY.task(ARGV[1]), ARGV[4], cjson.decode(ARGV[5])
if not is_held_by(task, ARGV[2], ARGV[3]) then
  local found = redis.call('HMGET', task, 'state', 'holder')
  return {(found[1] ~= 'queued' and found[2] == ARGV[3]) and 1 or 0}
end
if state ~= 'succeeded' and is_canceling(task) then state, outcome = 'canceled', {} end
return fill_window(end_task(task, ARGV[1], state, outcome, string.format('%d', now())), {1})
