-- @include mirror/redis/clock.lua
-- Returns Redis' time in ms.
return now()
