-- @include mirror/throttling/quota_ledger.lua
-- Notes that nothing remains of the limit. Returns the ms to wait, or -1 if no limit was ever stated.
bound_lifetime()
local window, started = bound_window(number('window')), number('started')
if not window then return -1 end
if not started or moment >= started + window then note('started', moment) end
note('remaining', 0)
note('told_at', moment)
return math.floor(time_to_wait(window))
