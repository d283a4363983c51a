-- The slots that a schedule has claimed, as stretches: a sorted set of the first slot of each stretch, by its last slot.
-- A slot that follows the last claimed one in the timetable lengthens the stretch of that one. So a set of some
-- stretches forgets no slot, and a slot that was passed over is in none of them.

local function is_claimed(slots, slot)
  for _, first in ipairs(redis.call('ZRANGEBYSCORE', slots, slot, '+inf')) do
    if tonumber(first) <= tonumber(slot) then return true end
  end
  return false
end

-- Join the two neighbours with the least time between them. The slots in between cannot be claimed any more.
local function join_closest(slots)
  local all, closest, least = redis.call('ZRANGE', slots, 0, -1, 'WITHSCORES'), 1, math.huge
  for i = 1, #all - 3, 2 do
    local between = tonumber(all[i + 2]) - tonumber(all[i + 1])
    if between < least then closest, least = i, between end
  end
  local one, other, last = all[closest], all[closest + 2], all[closest + 3]
  redis.call('ZREM', slots, one, other)
  redis.call('ZADD', slots, last, tonumber(one) < tonumber(other) and one or other)
end

-- Add a slot that is not claimed. *key* is the schedule. It remembers the stretch of its last claim, and the slot that
-- follows it in the timetable.
local function add_slot(key, slots, slot, following)
  local first, next_of_stretch = unpack(redis.call('HMGET', key, 'stretch', 'stretch_next'))
  if next_of_stretch ~= slot then first = slot end
  redis.call('ZADD', slots, slot, first)
  redis.call('HSET', key, 'stretch', first, 'stretch_next', following)
  if redis.call('ZCARD', slots) > STRETCHES_KEPT then join_closest(slots) end
end
