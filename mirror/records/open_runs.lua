-- @include mirror/records/last_tick.lua
-- ARGV: the time. Returns for each open run that needs something done: its id, and the state of its job, 'starting' for
-- one that has no job yet, 'following' for one whose upstream is to be followed, 'late' for one over its deadline,
-- 'replaced' for one that the next run replaces, or 'removed' for one whose job was deleted.
local found, is_stale = {}, is_ahead(ARGV[1])
local open = redis.call('ZRANGE', KEY.runs_open, 0, -1, 'WITHSCORES')
for i = 1, #open, 2 do
  local id = open[i]
  local state, cancel = unpack(redis.call('HMGET', KEY.run(id), 'state', 'cancel'))
  local what = false
  if not state then redis.call('ZREM', KEY.runs_open, id)
  elseif state ~= 'running' then what = state
  else
    local job, canceled = unpack(redis.call('HMGET', KEY.job('job_' .. string.sub(id, 5)), 'state', 'cancel_requested_at'))
    if not job then what = 'removed'
    elseif job ~= 'queued' and job ~= 'running' then what = job
    elseif canceled and canceled ~= '' then what = false
    elseif not is_stale and tonumber(open[i + 1]) <= tonumber(ARGV[1]) then what = 'late'
    elseif cancel and cancel ~= '' then what = 'replaced' end
  end
  if what then
    found[#found + 1] = id
    found[#found + 1] = what
  end
end
return found
