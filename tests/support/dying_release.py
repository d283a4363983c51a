"""``python -m tests.support.dying_release``: a process that dies at one of the writes of a release to S3.

The first arguments are the number of that write from 1, and ``before`` or ``after`` it. Then come the id of a release
task and its fence. With anything else, the process recovers what it finds, as the scheduler does.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from mirror.copying.cancellation import Cancellation
from mirror.jobs.release import StrandedReleases
from mirror.queue import NORMAL
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.storage.releases import ReleaseJournals
from mirror.wiring import build


def die_at(number: int, *, after: bool) -> None:
    """Let the write *number* to the bucket end this process with SIGKILL."""
    numbers = itertools.count(1)

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: Any, **options: Any) -> None:
            is_last = next(numbers) == number
            if is_last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            write(*args, **options)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)

        return counted

    for name in ("put", "delete"):
        setattr(Bucket, name, dying(getattr(Bucket, name)))


def main(number: str, when: str, what: str, *fence: str) -> None:
    core = build(Settings.load(Settings.require_stores))
    die_at(int(number), after=when == "after")
    if fence:
        [claimed] = core.claimer.claim([(what, int(fence[0]), NORMAL)], Cancellation())
        core.runner.run(claimed)
    else:
        StrandedReleases(core.jobs, ReleaseJournals(core.bucket), core.releaser, wait=0).finish(lambda: True)
    core.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
