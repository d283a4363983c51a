-- @include mirror/records/claimed_slots.lua
-- @include mirror/records/last_tick.lua
-- Claim a slot of a schedule and store its run. A slot is claimed once, whatever the clock does later.
-- ARGV: schedule, its version, next slot and open run that the caller has seen ('' for none), the slot or '', the run as
-- JSON, the following slot and the time of its run, the deadline of the run or '', and what becomes of it: 'open',
-- 'queued', 'replaces' (as queued, and the open run is to be canceled) or 'skipped'.
-- A run without a slot leaves the next slot as it is. An open run keeps the definition, so that every process that
-- starts it stores the same job.
-- Returns 'claimed', 'claimed before', 'unknown' or 'changed'. The claim was lost to another process then.
local id, slot, place = ARGV[1], ARGV[5], ARGV[10]
local key, slots = KEY.schedule(id), KEY.schedule_slots(id)
local run = cjson.decode(ARGV[6])
if redis.call('EXISTS', KEY.run(run.id)) == 1 then return 'claimed' end  -- sent twice
local version, next_slot, open, queued = unpack(redis.call('HMGET', key, 'version', 'next_slot', 'open_run', 'queued_run'))
if not version then return 'unknown' end
if version ~= ARGV[2] or open ~= ARGV[4] or (slot ~= '' and next_slot ~= ARGV[3]) then return 'changed' end
if slot ~= '' and is_ahead(run.created_at) then return 'changed' end
if (place == 'queued' or place == 'replaces') and queued ~= '' then return 'changed' end
if slot ~= '' then
  redis.call('HSET', key, 'next_slot', ARGV[7], 'next_run_at', ARGV[8])
  redis.call('ZADD', KEY.schedules_due, ARGV[8], id)
  if is_claimed(slots, slot) then return 'claimed before' end
  add_slot(key, slots, slot, ARGV[7])
end
for field, value in pairs(run) do redis.call('HSET', KEY.run(run.id), field, value) end
redis.call('ZADD', KEY.schedule_runs(id), 0, run.id)
for _, old in ipairs(redis.call('ZRANGE', KEY.schedule_runs(id), 0, -RUNS_KEPT - 1)) do
  -- The new run is the first of them if the clock was ahead while the others were made.
  if old ~= open and old ~= queued and old ~= run.id then
    redis.call('ZREM', KEY.schedule_runs(id), old)
    redis.call('DEL', KEY.run(old))
  end
end
if place == 'open' then
  redis.call('HSET', key, 'open_run', run.id)
  redis.call('HSET', KEY.run(run.id), 'definition', redis.call('HGET', key, 'definition'))
  redis.call('ZADD', KEY.runs_open, ARGV[9] == '' and '+inf' or ARGV[9], run.id)
elseif place == 'queued' or place == 'replaces' then
  redis.call('HSET', key, 'queued_run', run.id)
  if place == 'replaces' then redis.call('HSET', KEY.run(open), 'cancel', 'OVERLAP') end
end
return 'claimed'
