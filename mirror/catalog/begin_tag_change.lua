-- @include mirror/catalog/current_tags.lua
-- Renews the lease of a tag, and says that the tag is being changed.
-- KEYS: the lease. ARGV: its token, its length in ms, the repository, the tag. Returns 0 if the lease is not ours.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
write_tag(ARGV[3], ARGV[4], '?')
return 1
