-- @include mirror/redis/clock.lua
-- Returns the time in ms since the epoch. Writes nothing, so a Redis that refuses writes answers, too.
return (read_now())
