-- @include mirror/redis/clock.lua
-- Returns the time in ms since the epoch. It never goes back.
return now()
