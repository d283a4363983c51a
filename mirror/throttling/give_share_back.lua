-- Frees the share of a holder.
-- KEYS: the holders, their shares. ARGV: the holder. Returns 1.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
