-- @include mirror/throttling/breaker_record.lua
-- Decides whether a request may be sent to the registry.
-- ARGV: a random token of this call, so that a call that is sent twice is the same probe.
-- Returns the outage if no request may be sent. Else returns {failures in a row, ms for which HEADs are of no use}.
-- The request that is the probe gets -1 for the failures.
local open_until = number('open_until')
local headless = math.max(0, (number('headless_until') or 0) - moment)
if not open_until then return {number('failures') or 0, headless} end
if moment < open_until then return outage(open_until - moment) end
local is_probed = moment < (number('probe_until') or 0)
if is_probed and redis.call('HGET', record, 'prober') ~= ARGV[1] then return outage(5000) end
note('probe_until', moment + PROBE_SECONDS * 1000)
redis.call('HSET', record, 'prober', ARGV[1])
return {-1, headless}
