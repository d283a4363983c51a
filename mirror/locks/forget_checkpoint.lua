-- Deletes a checkpoint, if the caller holds the blob's lease.
-- KEYS: the checkpoint, the blob's lease. ARGV: the lease's token. Returns 1 if the caller holds the lease, else 0.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
