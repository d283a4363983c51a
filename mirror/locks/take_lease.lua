-- Takes a lease, or finds that this token holds it already: the command may be sent twice.
-- KEYS: the lease. ARGV: the token, the length in ms. Returns 1 if the token holds the lease now, else 0.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
