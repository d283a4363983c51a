-- Runs one script many times, in order, in one round trip.
-- KEYS: the keys of all runs. ARGV: how many runs, then for each run how many keys and how many arguments it has, then
-- the arguments of all runs. Returns a list with the result of each run. A run that failed has its error there.
local function run(KEYS, ARGV)
--[[ SCRIPT ]]
end

local results, keys, args = {}, 0, 1 + 2 * tonumber(ARGV[1])
for i = 1, tonumber(ARGV[1]) do
  local key_count, arg_count = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local ran, result =
    pcall(run, {unpack(KEYS, keys + 1, keys + key_count)}, {unpack(ARGV, args + 1, args + arg_count)})
  if not ran then
    -- An error that says that Redis refuses to work ends all runs. Any other is the result of its own run.
    local text = type(result) == 'table' and result.err or tostring(result)
    local code = string.match(text, '^%-?(%u+) ')
    if code and code ~= 'ERR' and code ~= 'WRONGTYPE' then return redis.error_reply(text) end
    result = redis.error_reply(text)
  end
  results[i] = result or false  -- a nil would end the list
  keys, args = keys + key_count, args + arg_count
end
return results
