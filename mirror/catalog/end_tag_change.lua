-- @include mirror/catalog/current_tags.lua
-- Says what a tag shows after its change.
-- KEYS: the lease. ARGV: its token, the repository, the tag, its digest or ''. Returns 0 if the lease is not ours any
-- more. Another process may have changed the tag since, or Redis may have lost the '?'. So readers ask the bucket then.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  write_tag(ARGV[2], ARGV[3], '?')
  return 0
end
write_tag(ARGV[2], ARGV[3], ARGV[4])
return 1
