-- @include mirror/catalog/index_entry.lua
-- Puts the entry of a tag that a rebuild has read, unless the tag was changed since the index was lost.
-- ARGV: the repository, the tag, the entry and the sizes of its blobs as JSON.
if redis.call('SISMEMBER', KEY.index_changed, image) == 1 then return end
local freed = remove_entry()
update_repository(write_entry(ARGV[3]) - freed)
