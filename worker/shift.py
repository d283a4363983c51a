"""What one work horse does: the task it was forked for, and, side by side, what else is queued meanwhile.

A fork costs 16 ms and a registry's token and connections are of the process, so a horse that has begun goes on with
the next tasks rather than leave each to a horse of its own; and a task that waits, for a registry, for S3, or for
another worker's blob, leaves its turn to the others. An entry that stands in the queue stands there because every
worker is busy: idle ones are waiting for it and are served first.

Nothing is shared between the tasks but the memory budget, which they wait for in turn, and each has its own claim. But
they share a horse's death. So a task that has lost its worker before is performed alone: if it is what kills horses, it
takes no other with it, and if it is not, no other does it harm again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

import structlog

from mirror.copying.interruption import Interrupted, Interruption
from mirror.errors import RedisUnavailable
from mirror.jobs.performing import Performer
from mirror.queue import TaskQueue
from mirror.records.store import Claim

AT_ONCE: Final = 8
TASKS: Final = 1_000
"""How many tasks a horse takes before it leaves the rest to its successor, whose memory is as new."""
_LOOK_AGAIN: Final = 0.1
_LOG = structlog.get_logger(__name__)


class Shift:
    """One horse's tasks. *claimed* is told every claim before the work on it begins, *settled* the task behind it."""

    def __init__(
        self,
        performer: Performer,
        queue: TaskQueue,
        interruption: Interruption,
        *,
        claimed: Callable[[Claim], None],
        settled: Callable[[str], None],
        at_once: int = AT_ONCE,
        tasks: int = TASKS,
    ) -> None:
        self._performer = performer
        self._queue = queue
        self._interruption = interruption
        self._claimed = claimed
        self._settled = settled
        self._at_once = at_once
        self._left = tasks

    def work(self, task_id: str, fence: int) -> None:
        """Perform the task, and others until none is queued; raises nothing a task did."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="task") as pool:
            if self._was_lost(task_id):
                self._left = 0
            running = {pool.submit(self._perform, task_id, fence)}
            while running := running | self._begun(pool, self._at_once - len(running)):
                done, running = wait(running, _LOOK_AGAIN, FIRST_COMPLETED)
                for task in done:
                    task.result()

    def _begun(self, pool: ThreadPoolExecutor, free: int) -> set[Future[None]]:
        begun: set[Future[None]] = set()
        while len(begun) < free and (entry := self._next()):
            begun.add(pool.submit(self._perform, *entry))
        return begun

    def _next(self) -> tuple[str, int] | None:
        """An entry to perform beside the others; one that is to be alone goes back, for a horse of its own."""
        if self._left == 0 or self._interruption.is_set():
            return None
        try:
            entry = self._queue.take()
            if entry is not None and self._performer.store.losses(entry[0]):
                self._queue.put(*entry)
                self._left, entry = 0, None
        except RedisUnavailable:
            return None
        self._left -= 1 if entry else 0
        return entry

    def _was_lost(self, task_id: str) -> bool:
        try:
            return self._performer.store.losses(task_id) > 0
        except RedisUnavailable:
            return True

    def _perform(self, task_id: str, fence: int) -> None:
        try:
            with self._interruption.part() as own:
                own.adopt()
                self._performer.perform(task_id, fence, own, claimed=self._claimed)
        except Interrupted:
            _LOG.info("task left in the queue: the work horse is to end", task_id=task_id)
        except RedisUnavailable:
            _LOG.error("Redis stayed away; the task's lease will end and another worker will take it", task_id=task_id)
        finally:
            self._settled(task_id)
