-- Closes the breaker of the bucket, if the trial is this task's.
-- KEYS: the record of the trouble. ARGV: the task's token. Returns 1 if the breaker was closed, else 0.
if redis.call('HGET', KEYS[1], 'trial') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
