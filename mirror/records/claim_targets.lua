-- @include mirror/records/job_state.lua
-- Claim names of targets for a task, or give them back, so that no two tasks of a job write one target.
-- ARGV: task id, fence, token, 'claim' or 'give back', and a list of targets and their sources, in turn, as JSON.
-- Returns the claim's state, and then the targets that other tasks have claimed, each with its source there. A task that
-- is alone in its job claims nothing.
local id, task, list = ARGV[1], KEY.task(ARGV[1]), cjson.decode(ARGV[5])
local state = claim_state(task, ARGV[2], ARGV[3])
if state == 0 or #list == 0 then return {state} end
local job = redis.call('HGET', task, 'job')
if redis.call('ZCARD', KEY.job_tasks(job)) < 2 then return {state} end
local targets, names, own, answer = KEY.job_targets(job), {}, {}, {state}
for i = 1, #list, 2 do names[#names + 1] = list[i] end
for i, owner in ipairs(redis.call('HMGET', targets, unpack(names))) do
  local name, source = names[i], list[2 * i]
  local owning, owned = string.match(owner or '', '^(%S+) (.*)$')
  if not owning or owning == id then
    own[#own + 1] = name
    if ARGV[4] == 'claim' then own[#own + 1] = id .. ' ' .. source end
  else
    answer[#answer + 1] = name
    answer[#answer + 1] = owned
  end
end
if #own > 0 then redis.call(ARGV[4] == 'claim' and 'HSET' or 'HDEL', targets, unpack(own)) end
return answer
