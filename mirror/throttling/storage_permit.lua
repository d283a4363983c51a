-- @include mirror/redis/clock.lua
-- Decides whether a task may begin to write to the bucket.
-- KEYS: the record of the trouble. ARGV: a token of the task.
-- Returns 0 if it may not, 1 if it may, 2 if it may as the trial, and then the ms until the next trial.
local record, moment = KEYS[1], now()
local found = redis.call('HMGET', record, 'next', 'trial')
local next_trial = tonumber(found[1] or '')
if not next_trial then return {1, 0} end
if found[2] == ARGV[1] then return {2, 0} end
if moment < next_trial then return {0, next_trial - moment} end
redis.call('HSET', record, 'trial', ARGV[1], 'next', string.format('%d', moment + TRIAL_SECONDS * 1000))
return {2, 0}
