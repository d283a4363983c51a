-- Claim a slot of a schedule and store its run. A slot is claimed once, whatever the clock does later.
-- ARGV: schedule, the next slot and the open run that the caller has seen ('' for none), the slot or '', the run as JSON,
-- the following slot and the time of its run, the deadline of the run or '', and what becomes of it: 'open', 'queued',
-- 'replaces' (as queued, and the open run is to be canceled) or 'skipped'.
-- A run without a slot leaves the next slot as it is.
-- Returns 'claimed', 'claimed before', 'unknown' or 'changed'. The claim was lost to another process then.
local id, slot, place = ARGV[1], ARGV[4], ARGV[9]
local key, slots = KEY.schedule(id), KEY.schedule_slots(id)
local run = cjson.decode(ARGV[5])
if redis.call('EXISTS', KEY.run(run.id)) == 1 then return 'claimed' end  -- sent twice
local version, next_slot, open, queued = unpack(redis.call('HMGET', key, 'version', 'next_slot', 'open_run', 'queued_run'))
if not version then return 'unknown' end
if open ~= ARGV[3] or (slot ~= '' and next_slot ~= ARGV[2]) then return 'changed' end
if (place == 'queued' or place == 'replaces') and queued ~= '' then return 'changed' end
if slot ~= '' then
  redis.call('HSET', key, 'next_slot', ARGV[6], 'next_run_at', ARGV[7])
  redis.call('ZADD', KEY.schedules_due, ARGV[7], id)
  local oldest = redis.call('ZRANGE', slots, 0, 0, 'WITHSCORES')
  local is_full = redis.call('ZCARD', slots) >= SLOTS_KEPT
  if redis.call('ZSCORE', slots, slot) or (is_full and tonumber(slot) < tonumber(oldest[2])) then
    return 'claimed before'
  end
  redis.call('ZADD', slots, slot, slot)
  redis.call('ZREMRANGEBYRANK', slots, 0, -SLOTS_KEPT - 1)
end
for field, value in pairs(run) do redis.call('HSET', KEY.run(run.id), field, value) end
redis.call('ZADD', KEY.schedule_runs(id), 0, run.id)
for _, old in ipairs(redis.call('ZRANGE', KEY.schedule_runs(id), 0, -RUNS_KEPT - 1)) do
  if old ~= open and old ~= queued then
    redis.call('ZREM', KEY.schedule_runs(id), old)
    redis.call('DEL', KEY.run(old))
  end
end
if place == 'open' then
  redis.call('HSET', key, 'open_run', run.id)
  redis.call('ZADD', KEY.runs_open, ARGV[8] == '' and '+inf' or ARGV[8], run.id)
elseif place == 'queued' or place == 'replaces' then
  redis.call('HSET', key, 'queued_run', run.id)
  if place == 'replaces' then redis.call('HSET', KEY.run(open), 'cancel', 'OVERLAP') end
end
return 'claimed'
