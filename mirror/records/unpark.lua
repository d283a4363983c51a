-- @include mirror/records/job_state.lua
-- Queue a parked task that is due, or end it as failed if its patience ended while it was parked. A task that is parked
-- for longer than any wait allows is due as well.
-- ARGV: task id. Returns the queue entries to add.
local id, task = ARGV[1], KEY.task(ARGV[1])
local due = redis.call('ZSCORE', KEY.tasks_parked, id)
local early = due and tonumber(due) - now()
if not early or (early > 0 and early <= LONGEST_WAIT_MS) then return {} end
local moment = string.format('%d', now())
local fails_with = redis.call('HGET', task, 'fails_with')
if is_set(fails_with) then return fill_window(end_task(task, id, 'failed', {error = fails_with}, moment), {}) end
redis.call('ZREM', KEY.tasks_parked, id)
queue_again(task, id, moment)
return add_entry({}, id)
