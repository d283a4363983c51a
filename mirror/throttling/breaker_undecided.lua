-- @include mirror/throttling/breaker_record.lua
-- Ends a probe that showed nothing: the next request may be the probe. Returns 1.
redis.call('HDEL', record, 'probe_until', 'prober')
return 1
