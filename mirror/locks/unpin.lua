-- Removes a holder's pins from digests.
-- ARGV: the holder, the digests. Returns 1.
for i = 2, #ARGV do redis.call('SREM', KEY.pin(ARGV[i]), ARGV[1]) end
return 1
