-- @include mirror/throttling/breaker_record.lua
-- Closes the breaker. ARGV: 1 if the registry sent what was asked for. Returns 1.
redis.call('HDEL', record, 'failures', 'counted_since', 'open_until', 'opened', 'probe_until', 'prober', 'cause',
           'cause_answered')
if ARGV[1] == '1' then note('answered_at', moment) end
redis.call('EXPIRE', record, KNOWN_SECONDS)
return 1
