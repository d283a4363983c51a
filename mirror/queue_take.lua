-- Take entries. The lanes take turns by their weights, and each lane is first in, first out.
--
-- A lane has a virtual time, which grows by its stride with each entry that is taken from it. The next entry is taken
-- from the lane with the smallest time, and of equal ones from the first. A lane that was empty continues at the time of
-- the last turn. So it has saved nothing, and its first entry is the next one. This is start-time fair queuing (Goyal,
-- Vin and Cheng, 1996) with entries of equal length.
--
-- KEYS: RQ's queues of the lanes. ARGV: the prefix of an entry's key, how many entries to take, each lane's stride.
-- Returns for each entry the place of its lane in KEYS, and its id.
local times, lanes, now = redis.call('HMGET', KEY.queue_turns, 'now', unpack(KEYS)), {}, 0
now = tonumber(times[1] or '') or 0
for place, key in ipairs(KEYS) do
  local left = redis.call('LLEN', key)
  if left > 0 then
    local time = math.max(now, tonumber(times[place + 1] or '') or 0)
    lanes[#lanes + 1] = {place = place, key = key, left = left, time = time, stride = tonumber(ARGV[2 + place])}
  end
end

local function next_lane()
  local first = nil
  for _, lane in ipairs(lanes) do
    if lane.left > 0 and (not first or lane.time < first.time) then first = lane end
  end
  return first
end

-- An entry whose record is gone or not queued was taken from another lane. It costs its lane no turn.
local taken, lane = {}, next_lane()
while lane and #taken < 2 * tonumber(ARGV[2]) do
  local entry = redis.call('LPOP', lane.key)
  lane.left = lane.left - 1
  if redis.call('HGET', ARGV[1] .. entry, 'status') == 'queued' then
    redis.call('DEL', ARGV[1] .. entry)
    now = lane.time
    lane.time = lane.time + lane.stride
    taken[#taken + 1] = lane.place
    taken[#taken + 1] = entry
  end
  lane = next_lane()
end
if #taken > 0 then
  local fields = {'now', string.format('%d', now)}
  for _, lane in ipairs(lanes) do
    fields[#fields + 1] = lane.key
    fields[#fields + 1] = string.format('%d', lane.time)
  end
  redis.call('HSET', KEY.queue_turns, unpack(fields))
end
return taken
