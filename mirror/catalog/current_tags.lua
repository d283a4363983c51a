-- What tags show, for as long as this Redis runs. The scripts that read and change it include this.

-- A Redis that restarts or is replaced by its replica may have lost writes. It has another run_id, so what it still has
-- of the time before is not read.
local life = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')

-- Returns the hash of a repository.
local function tags_of(repository)
  return KEY.current_tags(life .. ':' .. repository)
end

-- Writes one tag. The whole hash expires a week after its last write.
local function write_tag(repository, tag, shown)
  local tags = tags_of(repository)
  redis.call('HSET', tags, tag, shown)
  redis.call('EXPIRE', tags, UNUSED_SECONDS)
end
