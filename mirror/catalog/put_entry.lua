-- @include mirror/redis/clock.lua
-- @include mirror/catalog/index_entry.lua
-- Puts the entry of a tag in place of the one before.
-- ARGV: the repository, the tag, the entry and the sizes of its blobs as JSON, 1 if the tag was compared with its source.
note_change()
local freed = remove_entry()
update_repository(write_entry(ARGV[3]) - freed)
if ARGV[4] == '1' then redis.call('HSET', checked, tag, string.format('%.0f', now())) end
