-- KEYS: RQ's queue. ARGV: the prefix of an entry's key, then entries. Returns those of them that were queued.
local taken = {}
for i = 2, #ARGV do
  if redis.call('LREM', KEYS[1], 1, ARGV[i]) == 1 then
    redis.call('DEL', ARGV[1] .. ARGV[i])
    taken[#taken + 1] = ARGV[i]
  end
end
return taken
