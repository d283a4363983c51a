-- @include mirror/records/job_state.lua
-- Add some blobs of a planned image to the totals of its plan. A blob that the plan has counted before adds nothing.
-- ARGV: task id, fence, token, and then four values for each blob: the start of its digest, the bytes to copy, the bytes
-- held, and the requests that a copy sends. Returns the claim's state.
-- The totals become an upper bound (plan_is_bound) in two cases. The plan has more than MOST_PLAN_BLOBS blobs. Or an
-- earlier worker on this task has counted blobs and was lost, and now the image may have others.
local task = KEY.task(ARGV[1])
local state = claim_state(task, ARGV[2], ARGV[3])
if state ~= 1 then return state end
local found = redis.call('HMGET', task, 'job', 'counted')
local key, seen = KEY.job(found[1]), KEY.plan_blobs(found[1])
local is_bound = is_set(found[2]) and found[2] ~= ARGV[2]
redis.call('HSET', task, 'counted', ARGV[2])
local room = MOST_PLAN_BLOBS - redis.call('SCARD', seen)
local sums = {0, 0, 0}
for i = 4, #ARGV, 4 do
  local is_new
  if room > 0 then
    is_new = redis.call('SADD', seen, ARGV[i]) == 1
    if is_new then room = room - 1 end
  else
    is_new = redis.call('SISMEMBER', seen, ARGV[i]) == 0
    is_bound = is_bound or is_new
  end
  if is_new then
    for place = 1, 3 do sums[place] = sums[place] + tonumber(ARGV[i + place]) end
  end
end
for place, field in ipairs({'bytes_to_copy', 'bytes_held', 'blob_requests'}) do
  add(key, 'plan_' .. field, sums[place])
end
if is_bound then redis.call('HSET', key, 'plan_is_bound', '1') end
return state
