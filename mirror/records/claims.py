"""What workers do to tasks: claim them, write their progress, and end them.

Each change is one script. It carries the claim's fence and token, and is refused when the task has been claimed anew
or taken away. A script that is sent twice, because its first answer was lost, finds its own work and returns the same.

When a task ends, the same script releases the next pending tasks of its job, and their queue entries are added after
it. If the process dies in between, the reconciler adds them.

While its job is being canceled, a task that would be queued, parked or failed is canceled. Only an image that was
published in spite of it is a success.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Final

from redis.exceptions import ResponseError

from mirror.background import record_fault
from mirror.errors import LONGEST_REST, InternalError
from mirror.records.fields import at, record_fields
from mirror.records.job import ByteCounts
from mirror.records.jobs import Entry, read_entries
from mirror.records.states import job_script
from mirror.records.task import (
    KEPT_BLOBS,
    SHOWN_FIELD,
    BlobReport,
    BlobState,
    ErrorReport,
    ForeignLayerCounts,
    ReferrerCounts,
    Skipped,
    Task,
    WaitingFor,
)
from mirror.redis.client import Redis
from mirror.signatures.policy import SignatureVerdict

LEASE_SECONDS: Final = 20
"""A worker that is silent for so long has lost its task."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a task until its lease ends.

    The fence and the token prove it to every script.
    """

    task: Task
    fence: int
    token: str

    @property
    def holder(self) -> str:
        """The name under which this claim holds pins and checkpoints."""
        return f"{self.task.id}-{self.fence}"

    @property
    def proof(self) -> tuple[str | float, ...]:
        """The first arguments of every script that a worker runs."""
        return self.task.id, self.fence, self.token


def task_of_holder(holder: str) -> str:
    """Return the id of the task that a claim's `holder` belongs to."""
    return holder.rpartition("-")[0]


class ClaimState(IntEnum):
    """What a worker learns of its claim whenever it writes.

    False once the claim is void.
    """

    TAKEN_AWAY = 0
    HELD = 1
    CANCELING = 2
    """Still held, and the task's job is being canceled: the worker has to stop and to settle the task."""


@dataclass(frozen=True, slots=True)
class ParkingTime:
    """For how many *seconds* a task is parked, and *until* when.

    *is_last* says that its patience ends then. The patience starts when the task first waits for a reason. The seconds
    are 0 once it has ended.
    """

    seconds: float
    until: datetime
    is_last: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended, apart from its state."""

    digest: str | None = None
    source_digest: str | None = None
    unchanged: bool = False
    superseded_by: str | None = None
    skipped: Skipped | None = None
    staged: int | None = None
    plan: Mapping[str, Any] | None = None
    release_window: int | None = None
    referrers: ReferrerCounts | None = None
    signature: SignatureVerdict | None = None
    error: ErrorReport | None = None

    def to_json(self) -> str:
        """Return what the settling script reads. All values but a flag are texts, as the record has them."""
        found: dict[str, object] = {"unchanged": True} if self.unchanged else {}
        texts = {name: getattr(self, name) for name in ("digest", "source_digest", "superseded_by")}
        numbers: dict[str, int | None] = {name: getattr(self, name) for name in ("staged", "release_window")}
        if self.referrers:
            numbers |= {f"referrers_{name}": count for name, count in asdict(self.referrers).items()}
        documents = {
            "skipped": self.skipped and self.skipped.fields(),
            "plan": self.plan,
            "signature": self.signature and self.signature.fields(),
            "error": self.error and self.error.fields(),
        }
        found |= {name: text for name, text in texts.items() if text}
        found |= {name: str(number) for name, number in numbers.items() if number is not None}
        found |= {name: json.dumps(document) for name, document in documents.items() if document}
        return json.dumps(found)


class ClaimStore:
    """The claims of all workers.

    Safe to share between threads. Every method raises RedisUnavailable.

    *enqueue* receives the queue entries of tasks that are released because others ended, and of tasks that are handed
    over. It must not raise.
    """

    def __init__(self, redis: Redis, enqueue: Callable[[Sequence[Entry]], None]) -> None:
        self._redis = redis
        self._enqueue = enqueue
        self._claim = redis.script(job_script("claim.lua"))
        self._renew = redis.script(job_script("renew.lua"))
        self._claim_state = redis.script(job_script("claim_state.lua"))
        self._progress = redis.script(job_script("progress.lua"))
        self._settle = redis.script(job_script("settle.lua"))
        self._release = redis.script(job_script("release.lua"))
        self._parking_time = redis.script(job_script("parking_time.lua"))
        self._abandon = redis.script(job_script("abandon.lua"))

    def claim(self, entries: Sequence[Entry]) -> list[Claim | None]:
        """Claim the tasks of queue entries in few round trips.

        Return None for each entry that is stale.

        A task whose record cannot be read fails. It does no harm to the others.
        """
        tokens = [secrets.token_hex(16) for _ in entries]
        found = self._claim.each(
            [
                ([], [task_id, fence, token, LEASE_SECONDS * 1000])
                for (task_id, fence, _), token in zip(entries, tokens, strict=True)
            ]
        )
        return [
            self._claimed(task_id, fields, token)
            for (task_id, *_), fields, token in zip(entries, found, tokens, strict=True)
        ]

    def _claimed(self, task_id: str, fields: Sequence[str] | ResponseError, token: str) -> Claim | None:
        record: dict[str, str] = {}
        try:
            if isinstance(fields, ResponseError):
                raise fields
            record = dict(zip(fields[::2], fields[1::2], strict=True))
            task = Task.from_record(record) if record else None
            return Claim(task, task.fence, token) if task else None
        except Exception as error:  # noqa: BLE001 - the other tasks are claimed
            record_fault("claiming a task", error, task_id=task_id)
            if record:
                self._fail([task_id, record["fence"], token], record.get("job", ""), record)
            return None

    def renew(self, claim: Claim) -> ClaimState:
        """Start the lease anew."""
        return ClaimState(self._renew(args=[*claim.proof, LEASE_SECONDS * 1000]))

    def states(self, claims: Sequence[Claim]) -> list[ClaimState | ResponseError]:
        """Read the state of each claim in few round trips.

        An error stands for a record that cannot be used.
        """
        found = self._claim_state.each([([], claim.proof) for claim in claims])
        return [each if isinstance(each, ResponseError) else ClaimState(each) for each in found]

    def progress(
        self,
        claim: Claim,
        blobs: Sequence[tuple[int, BlobReport]],
        counts: ByteCounts,
        *,
        digest: str | None,
        checkpoints: int,
        states: Mapping[BlobState, int] | None = None,
        foreign_layers: ForeignLayerCounts | None = None,
        shown: Sequence[BlobReport] | None = None,
        is_new_plan: bool = False,
    ) -> ClaimState:
        """Write the progress of a claim.

        *blobs* are those that changed, with their places in the plan. *checkpoints* counts blobs that are stored and
        parts of others that a checkpoint has. *states* counts the blobs in each state, and *foreign_layers* those of
        them that are foreign layers. *shown* are the blobs to show of a plan that has too many. The blobs of a new plan
        replace all others.
        """
        changed = {str(place): blob.to_json() for place, blob in blobs if place < KEPT_BLOBS}
        if shown is not None:
            changed[SHOWN_FIELD] = json.dumps([blob.to_json() for blob in shown])
        fields: dict[str, Any] = {
            "bytes_total": counts.total,
            "bytes_copied": counts.copied,
            "bytes_skipped": counts.skipped,
        }
        if digest:
            fields["digest"] = digest
        if states is not None:
            fields["blob_counts"] = json.dumps(states)
        if foreign_layers is not None:
            fields |= {"foreign_copied": foreign_layers.copied, "foreign_left_out": foreign_layers.left_out}
        written = json.dumps(record_fields(fields))
        args = [*claim.proof, json.dumps(changed), written, checkpoints, int(is_new_plan)]
        return ClaimState(self._progress(args=args))

    def settle(self, state: str, outcomes: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        """End tasks as *state* in few round trips.

        Return False for each that was taken away: it is not changed.

        A task of a job that is being canceled ends as ``canceled`` unless it succeeded. A task whose record cannot be
        written is abandoned: see `abandon`.
        """
        settled = self._settle.each([([], [*claim.proof, state, outcome.to_json()]) for claim, outcome in outcomes])
        released: list[Entry] = []
        ended = [self._ended(claim, answer, released) for (claim, _), answer in zip(outcomes, settled, strict=True)]
        if released:
            self._enqueue(released)
        return ended

    def _ended(self, claim: Claim, answer: Sequence[Any] | ResponseError, released: list[Entry]) -> bool:
        if isinstance(answer, ResponseError):
            record_fault("settling a task", answer, task_id=claim.task.id, job_id=claim.task.job)
            return self.abandon(claim)
        ended, *entries = answer
        released += read_entries(entries)
        return bool(ended)

    def abandon(self, claim: Claim) -> bool:
        """End as failed a task whose record cannot be written.

        Return False if it was taken away.

        The record is replaced, so that the job ends. Where even that is impossible, the task's lease expires.
        """
        return self._fail(claim.proof, claim.task.job, claim.task.to_record())

    def _fail(self, proof: Sequence[str | float], job_id: str, record: Mapping[str, str]) -> bool:
        report = ErrorReport.of(InternalError()).fields()
        try:
            ended, *entries = self._abandon(args=[*proof, job_id, json.dumps(report), json.dumps(record)])
        except ResponseError as error:
            record_fault("abandoning a task", error, task_id=proof[0], job_id=job_id)
            return False
        if entries:
            self._enqueue(read_entries(entries))
        return bool(ended)

    def release(
        self,
        claim: Claim,
        *,
        wait: float = 0,
        waiting_for: WaitingFor | None = None,
        fails_with: ErrorReport | None = None,
    ) -> bool:
        """Give the task back without a loss.

        It is queued with an entry, or parked for *wait* seconds with the reason shown. No task is parked for longer
        than `LONGEST_REST`. After the wait it is queued again, or fails with *fails_with*. Returns False if it was
        taken away, or has ended instead: as ``canceled``, or as abandoned.
        """
        reason = json.dumps(waiting_for.fields()) if waiting_for else ""
        end = json.dumps(fails_with.fields()) if fails_with else ""
        return bool(self._released([claim], int(min(wait, LONGEST_REST) * 1000), reason, end))

    def hand_over(self, claims: Sequence[Claim]) -> list[Claim]:
        """Queue the tasks again in few round trips, without a loss.

        Return the claims of those that are queued: none that was taken away or has ended instead.
        """
        return self._released(claims, 0, "", "")

    def _released(self, claims: Sequence[Claim], wait_ms: int, reason: str, end: str) -> list[Claim]:
        found = self._release.each([([], [*claim.proof, wait_ms, reason, end]) for claim in claims])
        released: list[Claim] = []
        entries: list[Entry] = []
        for claim, answer in zip(claims, found, strict=True):
            if isinstance(answer, ResponseError):
                record_fault("releasing a task", answer, task_id=claim.task.id, job_id=claim.task.job)
                self.abandon(claim)
            elif answer[0]:
                released.append(claim)
                entries += read_entries(answer[1:])
        if entries:
            self._enqueue(entries)
        return released

    def parking_time(self, claim: Claim, reason: str, *, wait: float, patience: float) -> ParkingTime:
        """Note that the task waits for *reason*, and return for how long to park it.

        That is at most *wait* seconds, at most `LONGEST_REST`, and at most what is left of its *patience* in seconds.
        """
        most = min(max(wait, 1.0), LONGEST_REST)
        args: list[str | float] = [claim.task.id, reason, int(most * 1000), int(patience * 1000)]
        now, parked, is_last = self._parking_time(args=args)
        return ParkingTime(int(parked) / 1000, at(int(now) + int(parked)), bool(is_last))
