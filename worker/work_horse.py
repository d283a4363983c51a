"""The work horse's side of dying well: with its worker, and not before it has given its task back.

RQ's horse has a process group of its own and outlives a worker that is killed, so it asks the kernel to be killed with
it. On SIGTERM RQ lets a horse run on without limit; ours interrupts its copy and hands its task over.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import Final

import structlog

from mirror.background import suppress_faults
from mirror.copying.cancellation import Cancellation
from mirror.jobs.run import HANDOVER, TaskRunner
from mirror.records.claims import Claim

HANDOVER_SECONDS: Final = 4.0
"""From SIGTERM until a horse that is still busy, say with an S3 that hangs, gives its task back and ends."""
_PR_SET_PDEATHSIG: Final = 1
_LOG = structlog.get_logger(__name__)

_claimed: dict[str, tuple[TaskRunner, Claim]] = {}

CANCELLATION: Final = Cancellation()
"""This horse's own: it ends all its tasks. Each of them has one of its own below it."""


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when *parent*, our worker, dies; end at once if it has died already (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def stop_on_sigterm() -> None:
    """Make SIGTERM interrupt the copy; called in the horse before its task begins.

    A thread waits for it and all others block it: a handler would run in the main thread only, which may be waiting
    for a lock, and would run between any two of its steps.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_await_sigterm, name="sigterm", daemon=True).start()


def _await_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    watchdog = threading.Timer(HANDOVER_SECONDS, _end_now)
    watchdog.daemon = True
    watchdog.start()
    CANCELLATION.cancel(HANDOVER)


def give_back_at_the_end(performer: TaskRunner, claim: Claim) -> None:
    """Should this horse still be busy `HANDOVER_SECONDS` after SIGTERM, give *claim* back before it is ended."""
    _claimed[claim.task.id] = (performer, claim)


def settled(task_id: str) -> None:
    """The task's claim needs no giving back any more."""
    _claimed.pop(task_id, None)


def _end_now() -> None:
    for performer, claim in list(_claimed.values()):
        with suppress_faults("handing a task over", task_id=claim.task.id):
            performer.hand_over(claim, HANDOVER)
    _LOG.warning("the work horse did not stop in time and is ended")
    os._exit(os.EX_TEMPFAIL)
