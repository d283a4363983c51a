-- KEYS: RQ's queue. ARGV: the prefix of an entry's key, how many entries to take. Returns their ids.
local taken = redis.call('LPOP', KEYS[1], ARGV[2]) or {}
for _, entry in ipairs(taken) do redis.call('DEL', ARGV[1] .. entry) end
return taken
