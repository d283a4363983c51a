-- Note when an image says that it was created, if its tag still shows the digest.
-- KEYS: the hash of the repository. ARGV: the tag, the digest, the moment in ISO 8601.
local is_json, seen = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[1]) or '')
if not is_json or type(seen) ~= 'table' or seen.digest ~= ARGV[2] then return 0 end
seen.created = ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(seen))
return 1
