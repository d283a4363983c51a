-- KEYS: RQ's queues of the lanes. ARGV: the prefix of an entry's key, then the place of a lane and an entry in it, for
-- each entry to take. Returns those of them that nobody has taken before, each as its lane's place and its id.
local taken = {}
for i = 2, #ARGV, 2 do
  local place, entry = tonumber(ARGV[i]), ARGV[i + 1]
  local is_queued = redis.call('HGET', ARGV[1] .. entry, 'status') == 'queued'
  if redis.call('LREM', KEYS[place], 1, entry) == 1 and is_queued then
    redis.call('DEL', ARGV[1] .. entry)
    taken[#taken + 1] = place
    taken[#taken + 1] = entry
  end
end
return taken
