-- Ends a rebuild: the index is built.
-- ARGV: the rebuild's id. Returns 0 if another rebuild is noted, or none.
if redis.call('HGET', KEY.index_rebuild, 'run') ~= ARGV[1] then return 0 end
redis.call('SET', KEY.index_built, 1)
redis.call('DEL', KEY.index_rebuild, KEY.index_changed)
return 1
