"""Jobs and tasks in Redis: stored once, changed only by the scripts of `transitions`, read in pages."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Final

from redis.exceptions import ResponseError
from ulid import ULID

from mirror.errors import LONGEST_REST, InternalError, JobFinished, JobSucceeded, JobUnfinished, JobUnknown, TaskUnknown
from mirror.oci.reference import Reference
from mirror.records import request_scripts, transitions
from mirror.records.fields import at
from mirror.records.job import IMAGE_COUNTS, UNFINISHED, ByteCounts, ImageCounts, Job, JobRecordSchema, JobState
from mirror.records.job_scripts import RETENTION_SECONDS
from mirror.records.task import (
    KEPT_BLOBS,
    SHOWN_BLOBS,
    BlobReport,
    BlobSchema,
    BlobState,
    ErrorReport,
    Task,
    TaskRecordSchema,
    TaskSpec,
    WaitingFor,
)
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.threads import note_fault

LEASE_SECONDS: Final = 20
"""A worker that is silent for so long has lost its task."""
LOSSES_ALLOWED: Final = 3
_PAGE: Final = 100
_JOBS: Final = JobRecordSchema()  # made once: a schema copies its fields, which takes longer than a record does
_TASKS: Final = TaskRecordSchema()
_BLOBS: Final = BlobSchema()
_JOB_ID: Final = re.compile("job_[0-9A-Z]{26}", re.ASCII)
_TASK_ID: Final = re.compile("task_[0-9A-Z]{26}", re.ASCII)
_SHOWN: Final = "shown"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a task until its lease ends; the fence and the token prove it to every script."""

    task: Task
    fence: int
    token: str

    @property
    def holder(self) -> str:
        """The name under which this claim holds pins and checkpoints."""
        return f"{self.task.id}-{self.fence}"


def task_of_holder(holder: str) -> str:
    """Return the id of the task that a claim's `holder` belongs to."""
    return holder.rpartition("-")[0]


class ClaimState(IntEnum):
    """What a worker learns of its claim whenever it writes; false once the claim is void."""

    TAKEN_AWAY = 0
    HELD = 1
    CANCELING = 2
    """Still held, and the task's job is being canceled: the worker is to stop and to settle the task."""


@dataclass(frozen=True, slots=True)
class Rest:
    """For how many *seconds* a waiting task rests, *until* when, and whether its patience ends then.

    Its patience began when it first waited for the same reason. There are 0 seconds once it has ended.
    """

    seconds: float
    until: datetime
    is_last: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended, beside its state."""

    digest: str | None = None
    unchanged: bool = False
    superseded_by: str | None = None
    error: ErrorReport | None = None

    def fields(self) -> dict[str, object]:
        """What the settling script is told."""
        found: dict[str, object] = {"unchanged": True} if self.unchanged else {}
        for name in ("digest", "superseded_by"):
            if value := getattr(self, name):
                found[name] = value
        if self.error:
            found["error"] = json.dumps(self.error.fields())
        return found


class JobStore:
    """All jobs and tasks. Safe to share between threads.

    A job that is submitted here is kept for *retention* seconds after its end.
    """

    def __init__(self, redis: Redis, *, retention: int = RETENTION_SECONDS) -> None:
        self._redis = redis
        self._retention = retention
        self._submit = redis.script(transitions.SUBMIT)
        self._claim = redis.script(transitions.CLAIM)
        self._renew = redis.script(transitions.RENEW)
        self._standing = redis.script(transitions.STANDING)
        self._progress = redis.script(transitions.PROGRESS)
        self._settle = redis.script(transitions.SETTLE)
        self._release = redis.script(transitions.RELEASE)
        self._rest = redis.script(transitions.REST)
        self._unpark = redis.script(transitions.UNPARK)
        self._expire = redis.script(transitions.EXPIRE)
        self._abandon = redis.script(transitions.ABANDON)
        self._postpone = redis.script(transitions.POSTPONE)
        self._forget = redis.script(request_scripts.FORGET)
        self._cancel = redis.script(request_scripts.CANCEL)
        self._retry = redis.script(request_scripts.RETRY)

    def submit(self, specs: Sequence[TaskSpec]) -> tuple[Job, list[Task]]:
        """Store a job with one queued task for each spec, in that order; all of it or nothing."""
        now = self._redis.now()
        only = specs[0] if len(specs) == 1 else None
        job = Job(_new_id("job", now), only, "queued", at(now), ImageCounts(total=len(specs)))
        ids = sorted(_new_id("task", now) for _ in specs)  # of one moment, and so in no order
        tasks = [Task(i, job.id, spec, "queued", at(now)) for i, spec in zip(ids, specs, strict=True)]
        common = _texts(_TASKS.dump(tasks[0]))  # all but these two: to dump every task would take 0.1 ms each
        own = [{"id": task.id, "spec": task.spec.to_json()} for task in tasks]
        indexes = sorted({keys.jobs_by_source(str(spec.source)) for spec in specs})
        flat = {**_texts(_flat(job)), "retention": str(self._retention)}
        self._submit(args=[json.dumps(told) for told in (flat, common, own, indexes)])
        return job, tasks

    def job(self, job_id: str) -> Job:
        """Raises JobUnknown."""
        found = self._redis.call("HGETALL", keys.job(_job_id(job_id)))
        if not found:
            raise JobUnknown(job_id)
        return _job(found)

    def task(self, task_id: str) -> Task | None:
        found = self._redis.call("HGETALL", keys.task(task_id))
        return _task(found) if found else None

    def losses(self, task_ids: Sequence[str]) -> list[int]:
        """How many workers in a row each task has lost without getting further."""
        found = self._redis.answers([["HGET", keys.task(task_id), "losses"] for task_id in task_ids])
        return [int(losses) if isinstance(losses, str) and losses.isdecimal() else 0 for losses in found]

    def sources(self, task_ids: Sequence[str]) -> list[Reference | None]:
        """Return each task's source; None for one that is not there, cannot be read, or has lost a worker before."""
        commands = [["HMGET", keys.task(task_id), "losses", "spec", "source", "target"] for task_id in task_ids]
        return [_source(fields) for fields in self._redis.answers(commands)]

    def tasks(self, job_id: str, limit: int, *, after: str | None = None) -> list[Task]:
        """The first *limit* tasks of a job behind the task *after*, in the order in which its images were given."""
        start = f"({after}" if after else "-"
        ids = self._redis.call("ZRANGEBYLEX", keys.job_tasks(job_id), start, "+", "LIMIT", 0, limit)
        found = self._redis.answers([["HGETALL", keys.task(i)] for i in ids])
        tasks = [_readable_task(fields) for fields in found if fields and not isinstance(fields, ResponseError)]
        return [task for task in tasks if task]

    def blobs_of(self, task_ids: Sequence[str]) -> list[list[BlobReport]]:
        """At most `SHOWN_BLOBS` blobs of each of the tasks, asked for in one turn.

        They are in the order in which the task's plan named them. Of a task with more, those that failed come first,
        then those under way and those that wait.
        """
        places = [_SHOWN, *range(SHOWN_BLOBS)]
        found = self._redis.answers([["HMGET", keys.task_blobs(task_id), *places] for task_id in task_ids])
        return [_shown(texts) if not isinstance(texts, ResponseError) else [] for texts in found]

    def blobs(self, job_id: str, task_id: str, *, limit: int, after: int | None) -> tuple[list[BlobReport], int | None]:
        """At most *limit* of the task's blobs behind the place *after* in its plan; and the place to go on from.

        That is None after the last one that is kept (`KEPT_BLOBS`). Raises JobUnknown, or TaskUnknown.
        """
        job = self.job(job_id)
        task = self.task(task_id) if _TASK_ID.fullmatch(task_id) else None
        if task is None or task.job != job.id:
            raise TaskUnknown(job_id, task_id)
        first = 0 if after is None else after + 1
        texts = self._redis.call("HMGET", keys.task_blobs(task_id), *range(first, first + limit + 1))
        found = [_blob(text) for text in texts if text]
        return found[:limit], first + limit - 1 if len(found) > limit else None

    def page(
        self, *, limit: int, before: str | None, state: JobState | None, source: str | None
    ) -> tuple[list[Job], str | None]:
        """At most *limit* jobs, newest first, older than the job *before*; and the id to go on from, if any.

        With both filters the jobs of the source are read and those in other states passed over.
        """
        key = keys.jobs_by_source(source) if source else keys.jobs_by_state(state) if state else keys.JOBS
        most = max(limit + 1, _PAGE) if source and state else limit + 1
        found: list[Job] = []
        upper = f"({before}" if before else "+"
        while len(found) <= limit:
            ids = self._redis.call("ZREVRANGEBYLEX", key, upper, "-", "LIMIT", 0, most)
            if not ids:
                break
            records = self._redis.calls([["HGETALL", keys.job(i)] for i in ids])
            if gone := [job_id for job_id, record in zip(ids, records, strict=True) if not record]:
                self._redis.call("ZREM", key, *gone)  # their keys have expired before a scheduler forgot them
            jobs = [_job(record) for record in records if record]
            found += [job for job in jobs if state in (None, job.state)]
            upper = f"({ids[-1]}"
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    def claim(self, task_id: str, fence: int) -> Claim | None:
        """The task, if *fence* is what it was queued with and nobody works on it; None for a stale queue entry."""
        return self.claim_all([(task_id, fence)])[0]

    def claim_all(self, entries: Sequence[tuple[str, int]]) -> list[Claim | None]:
        """For each (task id, fence) what `claim` answers, in few turns."""
        tokens = [secrets.token_hex(16) for _ in entries]
        found = self._claim.each(
            [
                ([], [task_id, fence, token, LEASE_SECONDS * 1000])
                for (task_id, fence), token in zip(entries, tokens, strict=True)
            ]
        )
        return [
            self._claimed(task_id, fields, token)
            for (task_id, _), fields, token in zip(entries, found, tokens, strict=True)
        ]

    def _claimed(self, task_id: str, fields: Sequence[str] | ResponseError, token: str) -> Claim | None:
        """None if the task was not granted, or its record cannot be used: that is no harm to the others."""
        try:
            if isinstance(fields, ResponseError):
                raise fields
            return _claim(fields, token) if fields else None
        except Exception as error:  # noqa: BLE001 - see above
            note_fault("claiming a task", error, task_id=task_id)
            if not isinstance(fields, ResponseError):
                record = dict(zip(fields[::2], fields[1::2], strict=True))
                self._fail([task_id, record["fence"], token], record.get("job", ""), record)
            return None

    def renew(self, claim: Claim) -> ClaimState:
        """Start the lease anew."""
        return ClaimState(self._renew(args=[*_proof(claim), LEASE_SECONDS * 1000]))

    def standings(self, claims: Sequence[Claim]) -> list[ClaimState | ResponseError]:
        """Only ask, for each claim and in few turns; Redis writes nothing. An error where a record cannot be used."""
        found = self._standing.each([([], _proof(claim)) for claim in claims])
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
        shown: Sequence[BlobReport] | None = None,
        is_new_plan: bool = False,
    ) -> ClaimState:
        """Note the changed blobs with their places in the plan, the byte counts, and what this claim did for good.

        *checkpoints* counts the blobs that are there, and the parts of others behind a checkpoint. *states* says how
        many blobs are in which state. *shown* are the blobs to show of a plan that has too many.
        The blobs of a new plan take the place of all others.
        """
        changed = {str(place): blob.to_json() for place, blob in blobs if place < KEPT_BLOBS}
        if shown is not None:
            changed[_SHOWN] = json.dumps([blob.to_json() for blob in shown])
        fields = {"bytes_total": counts.total, "bytes_copied": counts.copied, "bytes_skipped": counts.skipped}
        known = {"digest": digest} if digest else {}
        if states is not None:
            known["blob_counts"] = json.dumps(states)
        told = json.dumps(_texts({**fields, **known}))
        args = [*_proof(claim), json.dumps(changed), told, checkpoints, int(is_new_plan)]
        return ClaimState(self._progress(args=args))

    def settle(self, claim: Claim, state: str, outcome: Outcome) -> bool:
        """End the task as *state*; False if it was taken away, and then nothing has changed.

        While its job is being canceled a task that did not succeed ends as ``canceled``, whatever *state* says. A task
        whose record cannot be written is abandoned: see `abandon`.
        """
        return self.settle_all(state, [(claim, outcome)])[0]

    def settle_all(self, state: str, outcomes: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        """For each claim what `settle` answers, in few turns."""
        told = [[*_proof(claim), state, json.dumps(outcome.fields())] for claim, outcome in outcomes]
        settled = self._settle.each([([], args) for args in told])
        return [self._ended(claim, answer) for (claim, _), answer in zip(outcomes, settled, strict=True)]

    def _ended(self, claim: Claim, answer: int | ResponseError) -> bool:
        if not isinstance(answer, ResponseError):
            return bool(answer)
        note_fault("settling a task", answer, task_id=claim.task.id, job_id=claim.task.job)
        return self.abandon(claim)

    def abandon(self, claim: Claim) -> bool:
        """End as failed a task that this worker holds and whose record cannot be written; False if it was taken away.

        Whatever stands in the record's place is written anew, so that its job ends. Where even that is impossible, the
        task's lease ends by itself.
        """
        return self._fail(_proof(claim), claim.task.job, _texts(_TASKS.dump(claim.task)))

    def _fail(self, proof: Sequence[str | float], job_id: str, record: Mapping[str, str]) -> bool:
        report = ErrorReport.of(InternalError()).fields()
        try:
            return bool(self._abandon(args=[*proof, job_id, json.dumps(report), json.dumps(record)]))
        except ResponseError as error:
            note_fault("abandoning a task", error, task_id=proof[0], job_id=job_id)
            return False

    def release(
        self,
        claim: Claim,
        *,
        wait: float = 0,
        waiting_for: WaitingFor | None = None,
        fails_with: ErrorReport | None = None,
    ) -> bool:
        """Give the task back without a loss: to be queued now, or parked for *wait* seconds with the reason shown.

        No task is parked for longer than `LONGEST_REST`. Behind the wait it is queued again, or fails with
        *fails_with*. False if it was taken away, or has ended instead: as ``canceled``, or as abandoned.
        """
        reason = json.dumps(waiting_for.fields()) if waiting_for else ""
        end = json.dumps(fails_with.fields()) if fails_with else ""
        args = [*_proof(claim), int(min(wait, LONGEST_REST) * 1000), reason, end]
        [released] = self._release.each([([], args)])
        if isinstance(released, ResponseError):
            note_fault("releasing a task", released, task_id=claim.task.id, job_id=claim.task.job)
            self.abandon(claim)
            return False
        return bool(released)

    def rest(self, claim: Claim, reason: str, *, wait: float, patience: float) -> Rest:
        """How long a task that waits for *reason* may rest: at most *wait* seconds, and at most `LONGEST_REST`."""
        most = min(max(wait, 1.0), LONGEST_REST)
        now, rest, is_last = self._rest(args=[claim.task.id, reason, int(most * 1000), int(patience * 1000)])
        return Rest(int(rest) / 1000, at(int(now) + int(rest)), bool(is_last))

    def cancel(self, job_id: str) -> None:
        """End what nobody works on as ``canceled`` and have the workers stop the rest; again is the same as once.

        Raises JobUnknown, or JobFinished.
        """
        granted, state = self._cancel(args=[_job_id(job_id), secrets.token_hex(16)])
        if not state:
            raise JobUnknown(job_id)
        if not granted:
            raise JobFinished(job_id, state)

    def retry(self, job_id: str) -> list[tuple[str, int]]:
        """Queue the failed and canceled tasks of a finished job again; their ids, with the fences for queue entries.

        Raises JobUnknown, JobUnfinished, or JobSucceeded.
        """
        granted, state, *queued = self._retry(args=[_job_id(job_id), secrets.token_hex(16)])
        if not state:
            raise JobUnknown(job_id)
        if not granted:
            raise JobUnfinished(job_id, state) if state in UNFINISHED else JobSucceeded(job_id)
        return list(zip(queued[::2], map(int, queued[1::2]), strict=True))

    def due(self) -> list[str]:
        """The parked tasks whose time has come, and those that no honest wait has parked for so long."""
        now = self._redis.now()
        beyond = f"({now + int(LONGEST_REST * 1000)}"
        forgotten = self._redis.call("ZRANGEBYSCORE", keys.TASKS_PARKED, beyond, "+inf", "LIMIT", 0, _PAGE)
        return [*self._scored(keys.TASKS_PARKED, now), *forgotten]

    def unpark(self, task_id: str) -> int | None:
        """Move a due task to the queued ones; the fence for its queue entry.

        None if it is not due, or has failed, since its patience ended while it was parked.
        """
        fence = int(self._unpark(args=[task_id]))
        return None if fence < 0 else fence

    def expired(self) -> list[str]:
        """The tasks whose worker was silent for longer than its lease."""
        return self._scored(keys.TASKS_RUNNING, self._redis.now())

    def expire(self, task_id: str, error: ErrorReport) -> int | None:
        """Take an expired task from its worker.

        Answers the fence for its queue entry, None if the lease stands, or the task has ended: failed with *error*, or
        canceled.
        """
        fence = int(self._expire(args=[task_id, LOSSES_ALLOWED, json.dumps(error.fields())]))
        return None if fence < 0 else fence

    def queued_since(self, seconds: float) -> list[str]:
        """The tasks that have been queued for at least *seconds*."""
        return self._scored(keys.TASKS_QUEUED, self._redis.now() - int(seconds * 1000))

    def postpone(self, task_id: str, seconds: float) -> None:
        """Look at the task again after *seconds*, so that the others come before one whose record cannot be used."""
        self._postpone(args=[task_id, self._redis.now() + int(seconds * 1000)])

    def forget_ended(self) -> int:
        """Delete ended jobs whose retention is over, as many as one pass may take; how many there were."""
        due = self._scored(keys.JOBS_ENDED, self._redis.now())
        return sum(int(self._forget(args=[job_id])) for job_id in due)

    def touch_queued(self, task_id: str) -> None:
        """Note that the task's queue entry was just put back."""
        self._redis.call("ZADD", keys.TASKS_QUEUED, "XX", self._redis.now(), task_id)

    def _scored(self, key: str, until: int) -> list[str]:
        return list(self._redis.call("ZRANGEBYSCORE", key, "-inf", until, "LIMIT", 0, _PAGE))


def _proof(claim: Claim) -> tuple[str | float, ...]:
    return claim.task.id, claim.fence, claim.token


def _claim(found: Sequence[str], token: str) -> Claim:
    task = _task(dict(zip(found[::2], found[1::2], strict=True)))
    return Claim(task, task.fence, token)


def _job_id(text: str) -> str:
    """An id from outside, which must not become the name of another key; raises JobUnknown."""
    if not _JOB_ID.fullmatch(text):
        raise JobUnknown(text)
    return text


def _new_id(kind: str, now: int) -> str:
    return f"{kind}_{ULID.from_timestamp(now)}"


def _flat(job: Job) -> dict[str, Any]:
    nested = {f"bytes_{name}": getattr(job.bytes, name) for name in ("total", "copied", "skipped")}
    counts = {name: getattr(job.images, name) for name in IMAGE_COUNTS}
    own = {name: getattr(job, name) for name in _JOBS.dump_fields if name not in nested and name not in counts}
    own["spec"] = job.spec.to_json() if job.spec else None
    dumped: dict[str, Any] = _JOBS.dump({**own, **nested, **counts})
    return dumped


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """Redis keeps texts; cjson would turn a large number into ``1e+12``."""
    return {name: "" if value is None else str(value) for name, value in fields.items()}


def _shown(texts: Sequence[str | None]) -> list[BlobReport]:
    """From the list of those to show, which stands first, else from the first ones of the plan."""
    chosen, *first = texts
    return [_blob(text) for text in (json.loads(chosen) if chosen else first) if text]


def _blob(text: str) -> BlobReport:
    blob: BlobReport = _BLOBS.load(json.loads(text))
    return blob


def _job(found: Mapping[str, str]) -> Job:
    job: Job = _JOBS.load(found)
    return job


def _task(found: Mapping[str, str]) -> Task:
    task: Task = _TASKS.load(found)
    return task


def _readable_task(found: Mapping[str, str]) -> Task | None:
    """Read a task for a list. One that cannot be read is left out: it fails when it is claimed."""
    try:
        return _task(found)
    except Exception as error:  # noqa: BLE001 - the others are listed
        note_fault("reading a task", error, task_id=found.get("id"))
        return None


def _source(fields: Sequence[str | None] | ResponseError) -> Reference | None:
    if isinstance(fields, ResponseError):
        return None
    losses, document, source, target = fields
    if losses not in (None, "", "0") or not (document or source):
        return None
    try:
        spec = TaskSpec.from_json(document) if document else TaskSpec.parse(source or "", target or "")
    except ValueError:
        return None
    return spec.source
