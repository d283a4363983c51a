-- @include mirror/redis/clock.lua
-- Notes what a process uses of a registry's limit, adapts the limit and grants the process its share.
-- KEYS: the limit, the holders, their shares.
-- ARGV: the holder, the requests that it may use until it gets the reply, then three flags that are 0 or 1: all of its
-- share was in use, a request succeeded, the registry was overloaded. Last, the highest limit.
-- Returns the share, the limit, and how many seconds with overload there were in a row.
local state, holders, shares = KEYS[1], KEYS[2], KEYS[3]
local holder, may_use, highest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[6])
local saturated, succeeded, overloaded = ARGV[3] == '1', ARGV[4] == '1', ARGV[5] == '1'
local moment = now()

local function number(field, default)
  return tonumber(redis.call('HGET', state, field) or default)
end

-- Remove holders that expired, and keep this one.
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', holders, '-inf', string.format('%d', moment))) do
  redis.call('HDEL', shares, dead)
  redis.call('ZREM', holders, dead)
end
redis.call('ZADD', holders, string.format('%d', moment + HOLDER_SECONDS * 1000), holder)
redis.call('HSETNX', shares, holder, 0)

-- Sum up what the others were granted.
local names = redis.call('HKEYS', shares)
table.sort(names)
local taken, own, rank = 0, tonumber(redis.call('HGET', shares, holder)), 0
for position, name in ipairs(names) do
  if name == holder then
    rank = position - 1
  else
    taken = taken + tonumber(redis.call('HGET', shares, name))
  end
end

-- Adapt the limit: overload halves it, and success with the limit used up adds one. Each happens at most once a second.
local limit = math.min(number('limit', START), highest)
local halved_at = number('halved_at', 0)
if overloaded then
  if moment - halved_at >= 1000 then
    limit = math.max(1, limit / 2)
    redis.call('HSET', state, 'halved_at', string.format('%d', moment))
    redis.call('HINCRBY', state, 'streak', 1)
  end
elseif succeeded then
  if moment - halved_at >= 10000 then redis.call('HDEL', state, 'streak') end
  local used_up = saturated and taken + own >= math.floor(limit)
  if used_up and moment - math.max(halved_at, number('grown_at', 0)) >= 1000 then
    limit = math.min(highest, limit + 1)
    redis.call('HSET', state, 'grown_at', string.format('%d', moment))
  end
end
redis.call('HSET', state, 'limit', tostring(limit))

-- Grant an equal share, as far as the others leave it.
local whole = math.floor(limit)
local fair = math.floor(whole / #names)
if rank < whole % #names then fair = fair + 1 end
local share = math.max(0, math.min(fair, whole - taken, MOST_OF_ONE))
redis.call('HSET', shares, holder, math.max(share, may_use))
redis.call('EXPIRE', state, 86400)
redis.call('EXPIRE', holders, 60)
redis.call('EXPIRE', shares, 60)
return {share, tostring(limit), number('streak', 0)}
