-- Writes fields of a checkpoint, if the writer holds the blob's lease.
-- KEYS: the checkpoint, the blob's lease.
-- ARGV: the lease's token, the seconds to keep the checkpoint, 1 for a new one, then fields and values.
-- Returns 1, or 0 if the writer does not hold the lease.
local checkpoint, lease = KEYS[1], KEYS[2]
if redis.call('GET', lease) ~= ARGV[1] then return 0 end
if ARGV[3] == '1' then
  redis.call('DEL', checkpoint)
elseif redis.call('EXISTS', checkpoint) == 0 then
  return 1  -- Redis lost the checkpoint. These fields alone would be of no use.
end
redis.call('HSET', checkpoint, unpack(ARGV, 4))
redis.call('EXPIRE', checkpoint, ARGV[2])
return 1
