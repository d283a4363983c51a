-- @include mirror/throttling/breaker_record.lua
-- Counts a failure, and opens the breaker if it is the last of a row or the failure of a probe.
-- ARGV: a random token of this failure, so that one that is sent twice counts once, a random factor near 1, the cause,
-- 1 if the cause was a response of the registry. Returns the outage.
local open_until = number('open_until')
redis.call('HSET', record, 'cause', ARGV[3], 'cause_answered', ARGV[4])
if redis.call('HGET', record, 'failure') ~= ARGV[1] then
  redis.call('HSET', record, 'failure', ARGV[1])
  if moment - (number('counted_since') or 0) > ROW_SECONDS * 1000 then
    note('counted_since', moment)
    note('failures', 0)
  end
  local failures = redis.call('HINCRBY', record, 'failures', 1)
  local opened = number('opened') or 0
  if (open_until and moment >= open_until) or (not open_until and failures >= FAILURES) then
    local seconds = OPEN_SECONDS
    if is_known() == 1 then seconds = math.min(LONGEST_OPEN, seconds * 2 ^ opened) end
    open_until = moment + seconds * 1000 * ARGV[2]
    note('open_until', open_until)
    note('opened', opened + 1)
    redis.call('HDEL', record, 'probe_until', 'prober')
  end
end
redis.call('EXPIRE', record, is_known() == 1 and KNOWN_SECONDS or 3600)
local retry_at = open_until or moment + OPEN_SECONDS * 1000 * ARGV[2]
return outage(math.max(1000, math.floor(retry_at - moment)))
