-- Starts the time of a lease again.
-- KEYS: the lease. ARGV: the token, the length in ms. Returns 1 if the token holds the lease, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
