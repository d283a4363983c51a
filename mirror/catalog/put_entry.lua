-- @include mirror/catalog/index_entry.lua
-- Puts the entry of a tag in place of the one before.
-- ARGV: the repository, the tag, the entry and the sizes of its blobs as JSON.
note_change()
local freed = remove_entry()
update_repository(write_entry(ARGV[3]) - freed)
