"""The worker and the scheduler: RQ outside, `mirror.jobs` inside."""

import mirror.queue  # noqa: F401 - before any module here imports rq, which reads its key prefix once
