-- @include mirror/records/job_state.lua
-- ARGV: task id, fence, token, fields of the blobs' hash as JSON, fields of the task as JSON, checkpoints of this claim,
-- 1 if these are all blobs. Returns the claim's state.
local task = KEY.task(ARGV[1])
local state = claim_state(task, ARGV[2], ARGV[3])
if state == 0 then return 0 end
local key, blobs = KEY.job(redis.call('HGET', task, 'job')), KEY.task_blobs(ARGV[1])
if ARGV[7] == '1' and redis.call('HLEN', blobs) > 0 then redis.call('DEL', blobs) end
for place, blob in pairs(cjson.decode(ARGV[4])) do redis.call('HSET', blobs, place, blob) end
for field, value in pairs(cjson.decode(ARGV[5])) do
  if field == 'digest' then
    if number(key, 'total') == 1 then redis.call('HSET', key, field, value) end
  elseif field ~= 'blob_counts' then
    value = string.format('%d', count(value))
    add(key, field, value - number(task, field))
  end
  redis.call('HSET', task, field, value)
end
redis.call('HSET', task, 'checkpoints', string.format('%d', number(task, 'checkpoints_at_claim') + ARGV[6]))
return state
