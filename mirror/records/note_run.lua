-- Change fields of a run that has not ended. One that was settled or deleted meanwhile stays as it is.
-- ARGV: run, the state that it must have, then fields and values in turn. Returns 1 if they are stored, else 0.
local key = KEY.run(ARGV[1])
if not redis.call('ZSCORE', KEY.runs_open, ARGV[1]) then return 0 end
local state = redis.call('HGET', key, 'state')
for i = 3, #ARGV, 2 do
  if ARGV[i] == 'state' and state == ARGV[i + 1] then return 1 end  -- sent twice
end
if state ~= ARGV[2] then return 0 end
redis.call('HSET', key, unpack(ARGV, 3))
return 1
