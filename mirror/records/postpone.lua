-- ARGV: the id of a job or a task, when to look at it again in ms. It applies to each set in which the reconciler
-- watches it.
for _, watched in ipairs({KEY.tasks_queued, KEY.tasks_running, KEY.tasks_parked, KEY.jobs_watched, KEY.jobs_ended,
                          KEY.jobs_leftover}) do
  redis.call('ZADD', watched, 'XX', ARGV[2], ARGV[1])
end
return 1
