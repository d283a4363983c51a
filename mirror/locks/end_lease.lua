-- Ends a lease, unless another token holds it.
-- KEYS: the lease. ARGV: the token. Returns 1 if the lease was ended, else 0.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
