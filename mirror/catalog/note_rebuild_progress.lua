-- Notes how far a rebuild of the index is.
-- ARGV: the rebuild's id, the number of tags, the last repository. Returns 0 if another rebuild is noted, or none.
if redis.call('HGET', KEY.index_rebuild, 'run') ~= ARGV[1] then return 0 end
redis.call('HSET', KEY.index_rebuild, 'tags', ARGV[2], 'repository', ARGV[3])
return 1
