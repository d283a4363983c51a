-- Announces that a blob is stored, and deletes its checkpoint if the caller holds the blob's lease.
-- KEYS: the checkpoint, the blob's lease, the announcement.
-- ARGV: the lease's token, the seconds to announce the blob. Returns 1.
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[3], 1, 'EX', ARGV[2])
return 1
