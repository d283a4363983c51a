-- Store what a schedule has mirrored, for a run that is following.
-- ARGV: schedule, run, targets and their tags in turn, and targets to forget, each as a JSON list.
-- Returns 1, or 0 if the run is not following any more.
if redis.call('HGET', KEY.run(ARGV[2]), 'state') ~= 'following' then return 0 end
local key, kept, forgotten = KEY.schedule_tags(ARGV[1]), cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
if #kept > 0 then redis.call('HSET', key, unpack(kept)) end
if #forgotten > 0 then redis.call('HDEL', key, unpack(forgotten)) end
return 1
