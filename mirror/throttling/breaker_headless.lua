-- @include mirror/throttling/breaker_record.lua
-- Notes that HEADs of manifests are of no use for HEADLESS_SECONDS. Returns 1.
note('headless_until', moment + HEADLESS_SECONDS * 1000)
if redis.call('TTL', record) < HEADLESS_SECONDS then redis.call('EXPIRE', record, HEADLESS_SECONDS) end
return 1
