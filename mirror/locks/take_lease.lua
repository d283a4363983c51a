-- Takes a lease, or finds that this token holds it already: the command may be sent twice.
-- KEYS: the lease. ARGV: the token, the length in ms. Returns 1 if the token holds the lease now, else 0.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
-- Redis keeps the wall time at which a key expires. If its clock was ahead then and was set back, that is far away.
if redis.call('PTTL', KEYS[1]) > LONGEST_SECONDS * 1000 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
