-- @include mirror/redis/clock.lua
-- Opens the breaker of the bucket. Failures count as one until the next trial is due.
-- KEYS: the record of the trouble.
-- ARGV: the task's token, the bytes of the write that failed, the error's code, action and reason, a random factor
-- near 1. Returns the ms until the next trial.
local record, moment = KEYS[1], now()
local found = redis.call('HMGET', record, 'next', 'trial', 'failures', 'size')
local next_trial = tonumber(found[1] or '')
if not next_trial or moment >= next_trial or found[2] == ARGV[1] then
  local failures = tonumber(found[3] or '0') + 1
  local wait = math.min(LONGEST_OPEN, OPEN_SECONDS * 2 ^ math.min(failures - 1, 10)) * 1000
  next_trial = math.floor(moment + wait * ARGV[6])
  redis.call('HSET', record, 'next', string.format('%d', next_trial), 'failures', failures, 'trial', '')
end
redis.call('HSETNX', record, 'since', string.format('%d', moment))
redis.call('HSET', record, 'code', ARGV[3], 'action', ARGV[4], 'reason', ARGV[5],
           'size', string.format('%d', math.max(tonumber(found[4] or '0'), ARGV[2])))
redis.call('EXPIRE', record, RECORD_SECONDS)
return next_trial - moment
