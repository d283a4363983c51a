-- What tags show, for as long as this Redis runs and keeps its data. The scripts that read and change it include this.

-- A Redis that restarts or is replaced by its replica may have lost writes. It has another run_id, so what it still has
-- of the time before is not read. A Redis that was emptied has no epoch. Its life is '' until the next write.
local life = ''

local function read_life()
  local epoch = redis.call('GET', KEY.current_tags_epoch)
  if epoch then life = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. '-' .. epoch end
end
read_life()

-- Begins a life in a Redis that was emptied. No reader has seen an epoch with this time.
local function begin_life()
  if life ~= '' then return end
  local time = redis.call('TIME')
  redis.call('SET', KEY.current_tags_epoch, time[1] .. '.' .. time[2])
  read_life()
end

-- Returns the hash of a repository.
local function tags_of(repository)
  return KEY.current_tags(life .. ':' .. repository)
end

-- Writes one tag. The whole hash expires a week after its last write.
local function write_tag(repository, tag, shown)
  begin_life()
  local tags = tags_of(repository)
  redis.call('HSET', tags, tag, shown)
  redis.call('EXPIRE', tags, UNUSED_SECONDS)
end
