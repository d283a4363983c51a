-- @include mirror/catalog/current_tags.lua
-- Keeps what was read from the bucket, unless a change of the tag began since, or Redis lost data since. A reader that
-- found an emptied Redis cannot tell, so it keeps nothing.
-- ARGV: the life of Redis before the bucket was read, the repository, the tag, its digest or ''.
begin_life()
if life ~= ARGV[1] then return end
if redis.call('HEXISTS', tags_of(ARGV[2]), ARGV[3]) == 0 then write_tag(ARGV[2], ARGV[3], ARGV[4]) end
