-- @include mirror/records/job_state.lua
-- Store what an expansion has selected, in several calls. The last one makes it complete.
-- ARGV: task id, fence, token, a list of fields and values of the selection's hash, a summary and the number of parts,
-- or an empty summary before the last call. Returns the claim's state.
local id, task = ARGV[1], KEY.task(ARGV[1])
local state = claim_state(task, ARGV[2], ARGV[3])
if state ~= 1 then return state end
local fields = cjson.decode(ARGV[4])
if #fields > 0 then redis.call('HSET', KEY.task_selection(id), unpack(fields)) end
if ARGV[5] ~= '' then
  local summary = cjson.decode(ARGV[5])
  redis.call('HSET', task, 'selection', ARGV[5], 'parts', ARGV[6])
  local key = KEY.job(redis.call('HGET', task, 'job'))
  for _, field in ipairs({'listed', 'selected'}) do add(key, field, summary[field] or 0) end
  add(task, 'checkpoints', 1)
end
return state
