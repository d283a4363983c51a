"""What one work horse does: the task it was forked for, and, side by side, what else is queued meanwhile.

A fork costs 16 ms and a registry's token and connections are of the process, so a horse that has begun goes on with
the next tasks rather than leave each to a horse of its own; and a task that waits, for a registry, for S3, or for
another worker's blob, leaves its turn to the others. An entry that stands in the queue stands there because every
worker is busy: idle ones are waiting for it and are served first.

Tasks whose tags are there already are looked at in rounds, for most of them have nothing to do: their tags are leased,
and while the bucket tells what all of them show, their sources are asked side by side; those that have not changed are
settled together. The sources come last, for their many threads leave little of the interpreter to anybody else. A round
is large as long as nothing new is met, nor anything that has changed; then one has as many tasks as can be mirrored at
once. What is found to be mirrored beyond that is given back to the queue: another worker may have nothing to do.

A registry that answers slowly, or on purpose never, must not keep all others waiting. Where every slot is taken, there
are more for registries that have none (`worker.overflow`), and looks have threads of their own for each registry. What
one request can cost is bounded by its deadline (`mirror.http.deadlines`). A registry that lets several of them pass
is asked by one task at a time for a while (`mirror.throttling.circuit_breaker`): the others are parked, or fail.

Nothing is shared between the tasks but the memory budget, which they wait for in turn, and each has its own claim. But
they share a horse's death. So a task that has lost its worker before is performed alone: if it is what kills horses, it
takes no other with it, and if it is not, no other does it harm again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any, Final

import structlog

from mirror.catalog.confirm import LockedTags
from mirror.copying.cancellation import Cancellation
from mirror.errors import RedisUnavailable
from mirror.jobs.run import ClaimedTask, TaskRunner
from mirror.queue import TaskQueue
from mirror.records.claims import Claim
from worker.overflow import OVERFLOW, OverflowQueue

AT_ONCE: Final = 8
TASKS: Final = 1_000
"""How many tasks a horse takes before it leaves the rest to its successor, whose memory is as new."""
LARGE_ROUND: Final = 128
_CLAIMED_AT_ONCE: Final = 64
_LOOKERS: Final = 12
"""Threads for the looks at one registry."""
_ROUND_SECONDS: Final = 0.25
"""How long those of a round that were looked at wait for the others, to be settled with them."""
_LOOK_AGAIN: Final = 0.1
_ELSEWHERE: Final = "another worker may mirror it at once"
_LOG = structlog.get_logger(__name__)

Looks = dict[Future[bool], ClaimedTask]


class TaskPool:
    """One horse's tasks. *claimed* is told every claim before the work on it begins, *settled* the task behind it."""

    def __init__(
        self,
        performer: TaskRunner,
        queue: TaskQueue,
        cancellation: Cancellation,
        *,
        claimed: Callable[[Claim], None],
        settled: Callable[[str], None],
        at_once: int = AT_ONCE,
        tasks: int = TASKS,
    ) -> None:
        self._performer = performer
        self._queue = queue
        self._cancellation = cancellation
        self._claimed = claimed
        self._settled = settled
        self._at_once = at_once
        self._round = at_once
        self._left = tasks
        self._looking: Looks = {}
        self._same: list[ClaimedTask] = []
        self._mirroring: dict[Future[None], ClaimedTask] = {}
        self._overflow: dict[Future[None], ClaimedTask] = {}
        self._is_alone = False
        self._others = OverflowQueue(queue, performer.store)

    def work(self, task_id: str, fence: int) -> None:
        """Perform the task, and others until none is queued; raises nothing a task did."""
        with (
            ExitStack() as self._threads,
            ThreadPoolExecutor(self._at_once + OVERFLOW, thread_name_prefix="task") as self._mirrorers,
        ):
            self._lookers: dict[str, ThreadPoolExecutor] = {}
            if self._was_lost(task_id):
                self._left, self._is_alone = 0, True
            looks = self._look_at(self._begin([(task_id, fence), *self._next(self._at_once - 1)]))
            more = self._begin_more()
            while self._looking or self._mirroring or self._overflow or self._same or more:
                held = dict.fromkeys([*looks.values(), *more, *self._same])  # in the order of their tickets
                with self._performer.holding(held) as tags:
                    looks |= self._look_at(more)
                    changed = self._changed(looks)
                    left = self._not_settled(
                        [claimed_task for claimed_task in self._same if claimed_task in held], tags
                    )
                self._mirror_or_hand_back(changed + left)
                self._begin_others()
                looks, more = {}, self._begin_more()  # before the loop's end is decided: all may have ended together

    def _begin_more(self) -> list[ClaimedTask]:
        """Those that are to be looked at, once their tags are held. Some are claimed at a time, since something to be
        mirrored among them ends the large round.
        """
        begun: list[ClaimedTask] = []
        while entries := self._next(min(self._room() - len(begun), _CLAIMED_AT_ONCE)):
            begun += self._begin(entries)
        return begun

    def _room(self) -> int:
        """How many tasks more may be begun: as many as could be mirrored, or looked at if nothing is mirrored."""
        if self._mirroring:
            return self._at_once - len(self._mirroring) - len(self._looking)
        return self._round - len(self._looking)

    def _begin(self, entries: Sequence[tuple[str, int]]) -> list[ClaimedTask]:
        """Claim the tasks; those whose tags are listed are to be looked at first. If all are, the next round is a large
        one.
        """
        claimed_tasks = self._claim(entries)
        self._round = LARGE_ROUND
        self._mirror_or_hand_back([claimed_task for claimed_task in claimed_tasks if claimed_task.listed is None])
        return [claimed_task for claimed_task in claimed_tasks if claimed_task.listed is not None]

    def _claim(self, entries: Sequence[tuple[str, int]]) -> list[ClaimedTask]:
        try:
            claimed_tasks = self._performer.begin(entries, self._cancellation, claimed=self._claimed)
        except RedisUnavailable:
            _note_silence(task_id for task_id, _ in entries)
            claimed_tasks = []
        begun = {claimed_task.claim.task.id for claimed_task in claimed_tasks}
        self._note_settled(task_id for task_id, _ in entries if task_id not in begun)
        return claimed_tasks

    def _begin_others(self) -> None:
        """While tasks occupy the horse, mirror queued ones of registries that have none of its slots."""
        busy = bool(self._looking or self._mirroring) and (self._left <= 0 or self._room() <= 0)
        if not busy or self._is_alone or self._cancellation.is_set():
            return
        occupying = {claimed_task.registry for claimed_task in (*self._looking.values(), *self._mirroring.values())}
        entries = self._others.take(occupying, [claimed_task.registry for claimed_task in self._overflow.values()])
        for claimed_task in self._claim(entries) if entries else ():
            self._overflow[self._mirrorers.submit(self._mirror, claimed_task)] = claimed_task

    def _look_at(self, claimed_tasks: Sequence[ClaimedTask]) -> Looks:
        looks = {
            self._lookers_of(claimed_task.registry).submit(self._look, claimed_task): claimed_task
            for claimed_task in claimed_tasks
        }
        self._looking |= looks
        return looks

    def _lookers_of(self, registry: str) -> ThreadPoolExecutor:
        """Threads of its own for each registry, made as they are needed: a slow one keeps no other waiting."""
        if registry not in self._lookers:
            made = ThreadPoolExecutor(_LOOKERS, thread_name_prefix="look")
            self._lookers[registry] = self._threads.enter_context(made)
        return self._lookers[registry]

    def _changed(self, looks: Looks) -> list[ClaimedTask]:
        """Wait until something has ended, and for what has just begun to be looked at if that is quick.

        Returns the tasks whose source is not what the index lists, or would not say. The others join the `_same`.
        """
        under_way: list[Future[Any]] = [*self._looking, *self._mirroring, *self._overflow]
        wait(looks, _ROUND_SECONDS)
        wait(under_way, 0 if self._same else _LOOK_AGAIN, FIRST_COMPLETED)
        for slots in (self._mirroring, self._overflow):
            for mirrored in [future for future in slots if future.done()]:
                del slots[mirrored]
                mirrored.result()
        looked = {future: self._looking.pop(future) for future in list(self._looking) if future.done()}
        going_on = [claimed_task for future, claimed_task in looked.items() if future.result()]
        self._same += [claimed_task for claimed_task in going_on if claimed_task.digest == claimed_task.listed]
        return [claimed_task for claimed_task in going_on if claimed_task.digest != claimed_task.listed]

    def _not_settled(self, same: Sequence[ClaimedTask], tags: LockedTags | None) -> list[ClaimedTask]:
        """Settle those of the `_same` whose tags are held now; the rest of those."""
        if not same:
            return []
        self._same = [claimed_task for claimed_task in self._same if claimed_task not in same]
        ids = {claimed_task.claim.task.id for claimed_task in same}
        try:
            left = self._performer.settle_unchanged(same, tags)
        except RedisUnavailable:
            _note_silence(ids)
            left = []
        self._note_settled(ids - {claimed_task.claim.task.id for claimed_task in left})
        return left

    def _mirror_or_hand_back(self, claimed_tasks: Sequence[ClaimedTask]) -> None:
        """Mirror as many as may be at once, and give the others back; the next round is to find no more than that."""
        if not claimed_tasks:
            return
        self._round = self._at_once
        room = self._at_once - len(self._mirroring)
        for claimed_task in claimed_tasks[:room]:
            self._mirroring[self._mirrorers.submit(self._mirror, claimed_task)] = claimed_task
        if claimed_tasks[room:]:
            self._hand_back(claimed_tasks[room:])

    def _next(self, most: int) -> list[tuple[str, int]]:
        """Entries to perform beside the others. One that is to be alone goes back, with what stands behind it, and no
        more are taken: it is for a horse of its own.
        """
        most = min(most, self._left)
        if most <= 0 or self._cancellation.is_set():
            return []
        try:
            entries = self._queue.take(most)
            losses = self._performer.store.losses([task_id for task_id, _ in entries])
            alone = next((place for place, lost in enumerate(losses) if lost), None)
            if alone is not None:
                self._left = 0
                self._queue.enqueue(entries[alone:])
                return entries[:alone]
        except RedisUnavailable:
            return []
        self._left -= len(entries)
        return entries

    def _was_lost(self, task_id: str) -> bool:
        try:
            return self._performer.store.losses([task_id]) != [0]
        except RedisUnavailable:
            return True

    def _look(self, claimed_task: ClaimedTask) -> bool:
        """In a thread of its own; whether the task goes on."""
        goes_on = False
        try:
            goes_on = self._performer.look(claimed_task)
        except RedisUnavailable:
            _note_silence([claimed_task.claim.task.id])
        if not goes_on:
            self._settled(claimed_task.claim.task.id)
        return goes_on

    def _mirror(self, claimed_task: ClaimedTask) -> None:
        """In a thread of its own."""
        try:
            self._performer.mirror(claimed_task)
        except RedisUnavailable:
            _note_silence([claimed_task.claim.task.id])
        finally:
            self._settled(claimed_task.claim.task.id)

    def _hand_back(self, claimed_tasks: Sequence[ClaimedTask]) -> None:
        ids = [claimed_task.claim.task.id for claimed_task in claimed_tasks]
        try:
            self._performer.hand_back(claimed_tasks, _ELSEWHERE)
        except RedisUnavailable:
            _note_silence(ids)
        self._note_settled(ids)

    def _note_settled(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self._settled(task_id)


def _note_silence(task_ids: Iterable[str]) -> None:
    for task_id in task_ids:
        _LOG.error("Redis stayed away; the task's lease will end and another worker will take it", task_id=task_id)
