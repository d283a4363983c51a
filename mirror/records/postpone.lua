-- ARGV: task id, when to look at it again in ms. It applies to each set in which the reconciler watches the task.
for _, watched in ipairs({KEY.tasks_queued, KEY.tasks_running, KEY.tasks_parked}) do
  redis.call('ZADD', watched, 'XX', ARGV[2], ARGV[1])
end
return 1
