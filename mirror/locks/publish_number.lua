-- Notes the change that a tag shows now, unless a change with a higher number is noted.
-- KEYS: the published changes of the repository. ARGV: the tag, the change's number, the change as JSON.
-- Returns who published a higher number, false if there is none.
local text = redis.call('HGET', KEYS[1], ARGV[1])
local last = text and cjson.decode(text)
if last and last.number > tonumber(ARGV[2]) then return last.by end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return false
