-- @include mirror/records/job_steps.lua
-- @include mirror/records/new_tasks.lua
-- Add one part of an expansion to its job: new tasks, and images that are unchanged or skipped and have no task.
-- ARGV: task id, fence, token, the number of the part (from 1), the unchanged images, the fields that all new tasks have,
-- a list of each new task's own fields, a list of the keys of the sources' indexes, the skipped images; the three before
-- the last as JSON.
-- Returns the claim's state, and then the queue entries to add. A part that was added before is not added again.
local id, task, part = ARGV[1], KEY.task(ARGV[1]), tonumber(ARGV[4])
local state = claim_state(task, ARGV[2], ARGV[3])
if state ~= 1 then return {state} end
local job, own = redis.call('HGET', task, 'job'), cjson.decode(ARGV[7])
if number(task, 'expanded') < part then
  local key, settled = KEY.job(job), {unchanged = tonumber(ARGV[5]), skipped = tonumber(ARGV[9])}
  redis.call('HSET', task, 'expanded', string.format('%d', part))
  add(task, 'checkpoints', 1)
  add(task, 'tasks_added', #own)
  add(key, 'total', #own)
  for kind, images in pairs(settled) do
    add(task, 'tags_' .. kind, images)
    for _, field in ipairs({'total', 'succeeded', kind}) do add(key, field, images) end
  end
  if #own > 0 then store_tasks(job, cjson.decode(ARGV[6]), own, cjson.decode(ARGV[8])) end
  watch(job, WINDOW_SECONDS)
end
return fill_window(job, {1})
