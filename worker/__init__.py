"""The worker and the scheduler. RQ and the periodic work stand here, their logic in `mirror`."""

import mirror.queue  # noqa: F401 - before any module here imports rq, which reads its key prefix once
