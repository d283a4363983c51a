"""The process side of a work horse, which is RQ's name for the forked process of a worker.

- It ends with its worker. It has a process group of its own, so it would outlive a worker that is killed.
- It ends soon after SIGTERM. RQ lets it run on without limit. Ours interrupts its copies and hands its tasks over.
- It gives freed memory back to the kernel.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from functools import cache
from typing import Final

import structlog

from mirror.background import suppress_faults
from mirror.copying.cancellation import Cancellation
from mirror.jobs.claim import HANDOVER
from mirror.redis.failures import PATIENT
from mirror.settings import Settings
from mirror.wiring import Core, build

HANDOVER_SECONDS: Final = 4.0
"""Seconds from SIGTERM until a work horse that is still busy hands its tasks over and ends."""
CANCELLATION: Final = Cancellation()
"""Interrupts all tasks of this work horse. Each task has a child of it."""
_PR_SET_PDEATHSIG: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MALLOC: Final = {
    _M_MMAP_THRESHOLD: 512 * 2**10,  # more than the pieces of 256 KiB that are hashed, which are allocated all the time
    _M_TRIM_THRESHOLD: 2**20,
    _M_ARENA_MAX: 4,
}
_LOG = structlog.get_logger(__name__)


@cache
def worker_core() -> Core:
    """Return the core of this worker. It is built once from the environment, before the first fork.

    Raises InvalidSettings.
    """
    return build(Settings.load(Settings.require_stores), retries=PATIENT)


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when *parent*, our worker, dies (prctl(2)). End at once if it is already dead."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def stop_on_sigterm() -> None:
    """Make SIGTERM interrupt the tasks. Call it in the work horse before its tasks begin.

    A thread waits for the signal, and all others block it. A handler would run only in the main thread, between any
    two of its steps, and not while that thread waits for a lock.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_await_sigterm, name="sigterm", daemon=True).start()


def _await_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    watchdog = threading.Timer(HANDOVER_SECONDS, _hand_over_and_end)
    watchdog.daemon = True
    watchdog.start()
    CANCELLATION.cancel(HANDOVER)


def _hand_over_and_end() -> None:
    """End a work horse that did not stop in time, for example because S3 hangs."""
    core = worker_core()
    for claim in core.heartbeats.claims():
        with suppress_faults("handing a task over", task_id=claim.task.id):
            core.settler.hand_over([claim], HANDOVER)
    _LOG.warning("the work horse did not stop in time and is ended")
    os._exit(os.EX_TEMPFAIL)


def configure_malloc() -> bool:
    """Make glibc give large freed buffers back to the kernel. Returns False for another C library.

    By default glibc raises its mmap threshold to the size of the first large buffer that is freed. It then serves such
    sizes from heaps, which keep the free memory between two used blocks. For an image of many layer sizes this was
    measured as 50 MiB more than the memory budget (mallopt(3), "dynamic mmap threshold").
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return all(libc.mallopt(setting, value) == 1 for setting, value in _MALLOC.items())
