-- Changes the entry of one tag in the index. The scripts that put and remove entries include it.
-- KEYS: the entries and the blobs of the repository, and when its tags were compared with their sources.
-- ARGV: the repository, the tag.
local entries, blobs, checked = KEYS[1], KEYS[2], KEYS[3]
local repository, tag = ARGV[1], ARGV[2]
local image = repository .. ':' .. tag

-- Removes the entry, if there is one. Returns the bytes of the blobs that no tag of the repository needs any more.
local function remove_entry()
  redis.call('HDEL', checked, tag)
  local before = redis.call('HGET', entries, tag)
  if not before then return 0 end
  redis.call('HDEL', entries, tag)
  redis.call('ZREM', KEY.index_images, image)
  local freed = 0
  for digest, size in pairs(cjson.decode(before).sizes) do
    if tonumber(redis.call('HINCRBY', blobs, digest, -1)) <= 0 then
      redis.call('HDEL', blobs, digest)
      freed = freed + size
    end
  end
  return freed
end

-- Writes the entry. Returns the bytes of the blobs that no other tag of the repository needs.
local function write_entry(stored)
  local added = 0
  for digest, size in pairs(cjson.decode(stored).sizes) do
    if tonumber(redis.call('HINCRBY', blobs, digest, 1)) == 1 then added = added + size end
  end
  redis.call('HSET', entries, tag, stored)
  redis.call('ZADD', KEY.index_images, 0, image)
  return added
end

-- Lists the repository with so many bytes more. A repository without tags is not listed.
local function update_repository(bytes)
  if redis.call('HLEN', entries) == 0 then
    redis.call('DEL', blobs, checked)
    redis.call('ZREM', KEY.index_repositories, repository)
    redis.call('HDEL', KEY.index_bytes, repository)
  else
    redis.call('ZADD', KEY.index_repositories, 0, repository)
    redis.call('HINCRBY', KEY.index_bytes, repository, string.format('%d', bytes))
  end
end

-- Notes that the tag was changed, for a rebuild that has read the bucket before.
local function note_change()
  if redis.call('EXISTS', KEY.index_built) == 0 then redis.call('SADD', KEY.index_changed, image) end
end
