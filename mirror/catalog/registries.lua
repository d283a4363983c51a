-- Lists the first components of the repositories that have a slash, in lexical order. Reads one name of each component.
-- ARGV: the lower bound, as ZRANGEBYLEX takes it.
-- Returns the bound to continue from, '' at the end, and the components. Returns false if the index is not built.
if redis.call('EXISTS', KEY.index_built) == 0 then return false end
local low, found = ARGV[1], {}
for _ = 1, STEPS do
  local name = redis.call('ZRANGEBYLEX', KEY.index_repositories, low, '+', 'LIMIT', 0, 1)[1]
  if not name then return {'', found} end
  local slash = string.find(name, '/', 1, true)
  if slash then
    local first = string.sub(name, 1, slash - 1)
    found[#found + 1] = first
    low = '[' .. first .. '0' -- the character after '/' is '0'
  else
    low = '(' .. name
  end
end
return {low, found}
