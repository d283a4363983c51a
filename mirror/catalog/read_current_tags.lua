-- @include mirror/catalog/current_tags.lua
-- Reads what a tag shows in each of several repositories.
-- ARGV: the tag, the repositories. Returns the life of this Redis, then for each repository a digest, '' for no such
-- tag, '?' while it is changed, or false if it is not known.
local found = {life}
for i = 2, #ARGV do found[i] = redis.call('HGET', tags_of(ARGV[i]), ARGV[1]) end
return found
