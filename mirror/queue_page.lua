-- Read entries of all lanes as one list, in the order of the lanes, and leave them queued.
-- KEYS: RQ's queues of the lanes. ARGV: the position to start at, how many entries to read.
-- Returns for each entry the place of its lane in KEYS, and its id.
local start, left, found = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for place, key in ipairs(KEYS) do
  local length = redis.call('LLEN', key)
  if left > 0 and start < length then
    for _, entry in ipairs(redis.call('LRANGE', key, start, start + left - 1)) do
      found[#found + 1] = place
      found[#found + 1] = entry
      left = left - 1
    end
  end
  start = math.max(0, start - length)
end
return found
