-- @include mirror/catalog/index_entry.lua
-- Removes the entry of a tag.
-- ARGV: the repository, the tag.
note_change()
update_repository(-remove_entry())
