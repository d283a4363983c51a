"""Periodic work of the fleet: each task has a thread and a lease of its own, so that none delays another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog

from mirror.errors import MirrorError
from mirror.locks.lease import Leases
from mirror.locks.lease_renewer import LeaseRenewer
from mirror.redis import keys
from worker.liveness import Liveness

LEASE_SECONDS: Final = 15.0
"""Seconds after which another scheduler takes over from one that died."""
_STAND_BY: Final = 2.0
"""Seconds between two attempts to take the lease of a task."""
_BEAT: Final = 2.0
"""Seconds between two checks that all tasks go on."""
STUCK_SECONDS: Final = 120.0
"""Seconds without any sign of progress after which a task is stuck. Three attempts of a request to S3 are shorter."""
_STOP_SECONDS: Final = 3.0
"""Seconds for tasks to end after `stop`. A run that is cut off is safe to repeat."""
_LOG = structlog.get_logger(__name__)

Alive = Callable[[], bool]
"""Returns whether the run should go on: its lease is held and the process is not stopping."""


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """Work that one process of the fleet at a time repeats, *every* so many seconds after the end of the last run.

    Every run must be safe to repeat. A process that was frozen for longer than its lease may run it while its successor
    does.
    """

    name: str
    every: float
    run: Callable[[Alive], object]


class PeriodicTasks:
    """Runs the tasks until `stop`. An error of one run is logged, and the next run tries again.

    *liveness* shows that this process is alive as long as no task is stuck.
    """

    def __init__(self, tasks: Sequence[PeriodicTask], leases: Leases, liveness: Liveness | None = None) -> None:
        self._tasks = tasks
        self._leases = leases
        self._liveness = liveness
        self._expected_by = {task.name: monotonic() + STUCK_SECONDS for task in tasks}
        self._stopped = threading.Event()
        self._leading: set[threading.Event] = set()

    def stop(self) -> None:
        """End `run`. May be called from a signal handler's thread or any other."""
        self._stopped.set()
        for ended in tuple(self._leading):
            ended.set()

    def run(self) -> None:
        """Run all tasks and return when they have ended after `stop`, at the latest 3 s after it."""
        with LeaseRenewer(self._leases, LEASE_SECONDS) as renewer:
            threads = [
                threading.Thread(target=self._repeat, args=(task, renewer), name=task.name, daemon=True)
                for task in self._tasks
            ]
            for thread in threads:
                thread.start()
            self._beat()
            while not self._stopped.wait(_BEAT):
                self._beat()
            until = monotonic() + _STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - monotonic()))
        if self._liveness:
            self._liveness.leave()

    def note_progress(self, *, rest: float = 0.0) -> None:
        """Note that the task of the calling thread goes on. It may now rest for *rest* seconds.

        Every attempt to reach Redis calls this too: a task that waits for Redis is not stuck.
        """
        name = threading.current_thread().name
        if name in self._expected_by:
            self._expected_by[name] = monotonic() + rest + STUCK_SECONDS

    def stuck(self) -> list[str]:
        """The names of the tasks that have been silent for too long."""
        now = monotonic()
        return [name for name, expected_by in self._expected_by.items() if now > expected_by]

    def _beat(self) -> None:
        if self._liveness is None:
            return
        if stuck := self.stuck():
            _LOG.error("periodic tasks are stuck", tasks=stuck)
        else:
            self._liveness.beat("leader" if self._leading else "standby")

    def _repeat(self, task: PeriodicTask, renewer: LeaseRenewer) -> None:
        """Stand by until the lease of *task* is ours, run it as long as it is, and so on."""
        while not self._stopped.is_set():
            self.note_progress()
            with _survived(task.name):
                self._lead(task, renewer)
            self._stopped.wait(_STAND_BY)

    def _lead(self, task: PeriodicTask, renewer: LeaseRenewer) -> None:
        ended = threading.Event()

        def alive() -> bool:
            self.note_progress()
            return not (self._stopped.is_set() or ended.is_set())

        lease = renewer.take(keys.periodic_lease(task.name), ended.set)
        if lease is None:
            return
        self._leading.add(ended)
        try:
            while alive():
                with _survived(task.name):
                    task.run(alive)
                self.note_progress(rest=task.every)
                ended.wait(task.every)
        finally:
            self._leading.discard(ended)
            renewer.give_back(lease)


@contextmanager
def _survived(name: str) -> Iterator[None]:
    """Log an error of the block and go on."""
    try:
        yield
    except MirrorError as error:
        _LOG.warning("periodic task failed", task=name, code=error.code, reason=error.message)
    except Exception as error:  # noqa: BLE001 - logged, and the task runs again
        _LOG.error("periodic task failed", task=name, code="INTERNAL_ERROR", exc_info=error)
