-- Note which digest each tag of a source repository shows now.
-- KEYS: the hash of the repository. ARGV: the moment in ms, for how long to keep the hash in ms, then tag and digest of
-- each tag. Returns for each tag the moment when it was first seen with this digest, and the `created` that is known of
-- it, or an empty text.
local found = {}
for i = 3, #ARGV, 2 do
  local tag, digest = ARGV[i], ARGV[i + 1]
  local text = redis.call('HGET', KEYS[1], tag)
  local is_json, seen = pcall(cjson.decode, text or '')
  if not is_json or type(seen) ~= 'table' or seen.digest ~= digest then
    seen = {digest = digest, first_seen = ARGV[1]}
    redis.call('HSET', KEYS[1], tag, cjson.encode(seen))
  end
  found[#found + 1] = seen.first_seen
  found[#found + 1] = seen.created or ''
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return found
