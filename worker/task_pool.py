"""The threads of one work horse: it runs the task it was forked for, and other queued tasks at the same time.

A fork costs 16 ms, and tokens and connections to registries belong to one process. So a work horse goes on with the
next tasks and does not leave each to a fork of its own. A task that waits for a registry, for S3 or for another
worker's blob leaves the processor to the others. An entry stays in the queue only while every worker is busy, because
idle workers wait for it and are served first.

Tasks whose tags are already in the index are checked in batches (`mirror.jobs.unchanged`), since most of them have
nothing to do. A batch is large until a task turns up that must be copied. From then on it has no more tasks than can be
copied at once. Tasks beyond that are handed back to the queue, because another worker may be idle.

A registry that responds slowly must not delay the others, nor a large job the small ones. While all slots are taken,
registries and jobs without a slot get extra ones (`worker.overflow`). Each registry has lookup threads of its own.
`mirror.http.deadlines` bounds the time of one request. After several timeouts only one task at a time asks the registry
(`mirror.throttling.circuit_breaker`).

Tasks share nothing but the memory budget, and each has its own claim. But a killed work horse loses all of its tasks.
So a task that has lost its worker before runs alone. If it kills work horses, no other task is lost with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

from mirror.copying.cancellation import Cancellation
from mirror.errors import RedisUnavailable
from mirror.jobs.claim import ClaimedCopy, ClaimedTask
from mirror.jobs.unchanged import UnchangedCheck
from mirror.queue import NORMAL
from mirror.records.jobs import Entry
from mirror.wiring import Core
from worker.overflow import OVERFLOW, OverflowQueue

AT_ONCE: Final = 8
"""Images that are copied at once."""
TASKS: Final = 1_000
"""Tasks of one work horse. It leaves the rest to its successor, whose memory is as new."""
LARGE_BATCH: Final = 128
"""Tasks that are checked at once as long as none has to be copied."""
_CLAIMED_AT_ONCE: Final = 64
_POLL_SECONDS: Final = 0.1
"""Seconds between two looks into the queue while tasks run."""
_ELSEWHERE: Final = "another worker may mirror it at once"


class TaskPool:
    """Runs the tasks of one work horse. Used once."""

    def __init__(self, core: Core, cancellation: Cancellation, *, at_once: int = AT_ONCE, tasks: int = TASKS) -> None:
        self._core = core
        self._cancellation = cancellation
        self._at_once = at_once
        self._batch = at_once
        self._tasks_left = tasks
        self._is_alone = False
        self._copies: dict[Future[None], ClaimedTask] = {}
        self._overflow: dict[Future[None], ClaimedTask] = {}
        self._overflow_queue = OverflowQueue(core.queue, core.queued)

    def run(self, task_id: str, fence: int) -> None:
        """Run the task of a queue entry, and then others until the queue is empty. Raises nothing that a task did."""
        core = self._core
        with (
            ThreadPoolExecutor(self._at_once + OVERFLOW, thread_name_prefix="task") as self._threads,
            UnchangedCheck(core.settler, core.confirmer, core.resolver, core.referrer_check) as self._check,
        ):
            if self._has_lost_worker(task_id):
                self._tasks_left, self._is_alone = 0, True
            new = self._claim_more(self._claim([(task_id, fence, NORMAL), *self._take(self._at_once - 1)]))
            while new or self._running() or not self._check.is_empty:
                self._copy(self._check.settle(new))
                self._copy_overflow()
                new = self._claim_more([])
                if not new:
                    wait(self._running(), _POLL_SECONDS, FIRST_COMPLETED)

    def _running(self) -> list[Future[Any]]:
        return [*self._check.lookups, *self._copies, *self._overflow]

    def _claim_more(self, claimed: list[ClaimedCopy]) -> list[ClaimedCopy]:
        """Add tasks to the *claimed* ones until the batch is full.

        A part of the batch is claimed at a time, because a task that must be copied makes the batch smaller.
        """
        self._forget_ended()
        while entries := self._take(min(self._room() - len(claimed), _CLAIMED_AT_ONCE)):
            claimed += self._claim(entries)
        return claimed

    def _forget_ended(self) -> None:
        for slots in (self._copies, self._overflow):
            for ended in [future for future in slots if future.done()]:
                del slots[ended]
                ended.result()

    def _room(self) -> int:
        """Return how many more tasks may be claimed: a batch to be checked, or what can be copied at once."""
        if self._copies:
            return self._at_once - len(self._copies) - len(self._check.lookups)
        return self._batch - len(self._check.lookups)

    def _claim(self, entries: Sequence[Entry]) -> list[ClaimedCopy]:
        """Claim tasks. Return those to be checked, and begin to copy the others."""
        tasks = self._core.claimer.claim(entries, self._cancellation)
        self._batch = LARGE_BATCH
        self._copy([task for task in tasks if not self._check.accepts(task)])
        return [task for task in tasks if self._check.accepts(task)]

    def _copy(self, tasks: Sequence[ClaimedTask]) -> None:
        """Copy as many of the tasks as fit and hand back the others. Later batches are no larger than that."""
        if not tasks:
            return
        self._batch = self._at_once
        room = self._at_once - len(self._copies)
        for task in tasks[:room]:
            self._copies[self._threads.submit(self._core.runner.run, task)] = task
        if tasks[room:]:
            self._core.settler.hand_back(tasks[room:], _ELSEWHERE)

    def _copy_overflow(self) -> None:
        """While no slot is free, copy queued images of registries and jobs that have none."""
        is_full = bool(self._check.lookups or self._copies) and (self._tasks_left <= 0 or self._room() <= 0)
        if not is_full or self._is_alone or self._cancellation.is_set():
            return
        usual = [task.origin for task in (*self._check.lookups.values(), *self._copies.values())]
        entries = self._overflow_queue.take(usual, [task.origin for task in self._overflow.values()])
        for task in self._core.claimer.claim(entries, self._cancellation) if entries else ():
            self._overflow[self._threads.submit(self._core.runner.run, task)] = task

    def _take(self, most: int) -> list[Entry]:
        """Take the next entries from the queue.

        A task that has lost a worker goes back with everything after it, and no more are taken. So it is left to a work
        horse of its own.
        """
        most = min(most, self._tasks_left)
        if most <= 0 or self._cancellation.is_set():
            return []
        try:
            entries = self._core.queue.take(most)
            losses = self._core.queued.losses([task_id for task_id, *_ in entries])
            lost = next((place for place, count in enumerate(losses) if count), None)
            if lost is not None:
                self._tasks_left = 0
                self._core.queue.enqueue(entries[lost:])
                return entries[:lost]
        except RedisUnavailable:
            return []
        self._tasks_left -= len(entries)
        return entries

    def _has_lost_worker(self, task_id: str) -> bool:
        try:
            return self._core.queued.losses([task_id]) != [0]
        except RedisUnavailable:
            return True
