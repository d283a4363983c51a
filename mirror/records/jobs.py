"""Jobs and their tasks in Redis: submit, read, list, cancel, retry and remove.

A request of a user carries a token, and the job keeps it. A script may be sent twice because its first answer was lost.
It finds the token and returns the same again.

A script touches at most `STEP` tasks. A request on a larger job is granted by its first script, and further scripts
do the rest. Nothing in between is wrong:

- After the first script of a cancellation no pending task is released. A task that is claimed, handed back or lost
  ends as canceled, and workers stop those that run. The remaining steps end the tasks that still wait.
- After the first script of a retry the job is queued. It cannot end before the last step has restarted its tasks.
- The first script of a removal deletes the job's record, so no reader finds the job. The steps delete its tasks.
- A large submission stores its tasks first. The last script stores the job itself, and only then it is accepted.

If the process dies in between, the reconciler finds the job in a set, and does the rest.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from redis.exceptions import ResponseError
from ulid import ULID

from mirror.background import record_fault
from mirror.errors import (
    JobFinished,
    JobSucceeded,
    JobUnfinished,
    JobUnknown,
    RedisUnavailable,
    RunUnknown,
    TaskUnknown,
)
from mirror.records.fields import at
from mirror.records.ids import new_ulid, ulid_of
from mirror.records.job import USUAL, ImageCounts, Job, JobOptions
from mirror.records.run import RunOrigin
from mirror.records.spec import CopySpec, ReleaseSpec, TaskSpec
from mirror.records.states import RETENTION_SECONDS, STEP, UNFINISHED, WINDOW, JobState, job_script
from mirror.records.task import SHOWN_BLOBS, SHOWN_FIELD, BlobReport, Task
from mirror.redis import keys
from mirror.redis.client import Redis

Entry = tuple[str, int, str]
"""A queue entry: the id of a task, the fence with which it can be claimed, and the lane."""
PLAN_SECONDS: Final = 86400
"""Seconds for which a plan is kept after it was made."""
_PAGE: Final = 100
_TASKS_AT_ONCE: Final = 500
_JOB_ID: Final = re.compile("job_[0-9A-Z]{26}", re.ASCII)
_TASK_ID: Final = re.compile("task_[0-9A-Z]{26}", re.ASCII)


class JobStore:
    """All jobs and their tasks.

    Safe to share between threads. Every method raises RedisUnavailable.

    A job that is submitted here is kept for *retention* seconds after its end, or for good if that is 0. At most
    *window* of its tasks are released at once.
    """

    def __init__(self, redis: Redis, *, retention: int = RETENTION_SECONDS, window: int = WINDOW) -> None:
        self._redis = redis
        self._retention = retention
        self._window = window
        self._hold_targets = redis.script(job_script("hold_targets.lua"))
        self._add_tasks = redis.script(job_script("add_tasks.lua"))
        self._submit = redis.script(job_script("submit.lua"))
        self._cancel = redis.script(job_script("cancel.lua"))
        self._retry = redis.script(job_script("retry.lua"))
        self._step = redis.script(job_script("step.lua"))
        self._remove = redis.script(job_script("remove.lua"))
        self._delete_leftover = redis.script(job_script("delete_leftover.lua"))

    def submit(
        self, specs: Sequence[TaskSpec], options: JobOptions = USUAL, run: RunOrigin | None = None
    ) -> tuple[Job, list[Task], list[Entry]]:
        """Store a job with one task for each spec, in that order.

        All of it is stored or nothing. An atomic job gets a release task, which is not among the returned ones.

        The ids of the job of a *run* follow from the id of the run. So processes that submit it at the same time store
        the same records, and one job. If the run is not ``starting`` any more, nothing is stored.

        Returns the job, its tasks, and the queue entries of those that are released.
        """
        now = self._redis.now()
        only = specs[0] if len(specs) == 1 else None
        images = ImageCounts(total=len(specs))
        job_id = run.job if run else f"job_{new_ulid(now)}"
        job = Job(job_id, only, "queued", at(now), images, options=options, run=run)
        # The ids of the tasks follow it, so that they sort as the specs.
        first = int(ulid_of(run.run)) if run else int(new_ulid(now))
        tasks: list[Task] = []
        is_expanded = any(spec.kind == "expand" for spec in specs)
        for start in range(0, len(specs), STEP):
            part = [
                Task(f"task_{ULID.from_int(first + place)}", job.id, spec, "queued", at(now))
                for place, spec in enumerate(specs[start : start + STEP], start)
            ]
            tasks += part
            if is_expanded and (owners := _target_owners(part)):
                self._hold_targets(args=[job.id, json.dumps(owners)])
            if len(tasks) < len(specs):
                self._add_tasks(args=[job.id, *task_arguments(part), run.run if run else ""])
        retention = PLAN_SECONDS if options.kind == "plan" else self._retention
        record = {**job.to_record(), "retention": str(retention), "window": str(self._window)}
        release = ""
        if options.atomic and options.kind == "mirror":
            task = Task(f"task_{ULID.from_int(first + len(specs))}", job.id, ReleaseSpec(), "queued", at(now))
            record["release"], release = task.id, json.dumps(task.to_record())
        accepted, *entries = self._submit(
            args=[json.dumps(record), *task_arguments(part), release, run.run if run else ""]
        )
        if not accepted and run:
            raise RunUnknown(run.run)
        if not accepted:
            raise RedisUnavailable("it took so long to store a job that its first tasks are deleted again")
        return job, tasks, read_entries(entries)

    def job(self, job_id: str) -> Job:
        """Raises JobUnknown."""
        found = self._redis.call("HGETALL", keys.job(_job_id(job_id)))
        if not found:
            raise JobUnknown(job_id)
        return Job.from_record(found)

    def found(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return those of the jobs that exist, in one round trip."""
        records = self._redis.calls([["HGETALL", keys.job(_job_id(job_id))] for job_id in job_ids])
        return {record["id"]: Job.from_record(record) for record in records if record}

    def task(self, task_id: str) -> Task | None:
        found = self._redis.call("HGETALL", keys.task(task_id))
        return Task.from_record(found) if found else None

    def task_of(self, job_id: str, task_id: str) -> Task:
        """Return a task of this job. Raises JobUnknown or TaskUnknown."""
        job = self.job(job_id)
        task = self.task(task_id) if _TASK_ID.fullmatch(task_id) else None
        if task is None or task.job != job.id:
            raise TaskUnknown(job_id, task_id)
        return task

    def tasks(self, job_id: str, limit: int, *, after: str | None = None) -> list[Task]:
        """Return at most *limit* tasks after the task *after*, in the order of the images."""
        start = f"({after}" if after else "-"
        ids = self._redis.call("ZRANGEBYLEX", keys.job_tasks(job_id), start, "+", "LIMIT", 0, limit)
        found = self._redis.calls([["HGETALL", keys.task(i)] for i in ids], raise_on_error=False)
        tasks = [_readable_task(fields) for fields in found if fields and not isinstance(fields, ResponseError)]
        return [task for task in tasks if task]

    def task_fields(self, job_id: str, field: str) -> Iterator[tuple[str, str | None]]:
        """Yield the id of each task of a job, and one field of its record: None where that is empty."""
        lower = "-"
        while ids := self._redis.call("ZRANGEBYLEX", keys.job_tasks(job_id), lower, "+", "LIMIT", 0, _TASKS_AT_ONCE):
            found = self._redis.calls([["HGET", keys.task(task_id), field] for task_id in ids])
            yield from zip(ids, (text or None for text in found), strict=True)
            lower = f"({ids[-1]}"

    def blobs_of(self, task_ids: Sequence[str]) -> list[list[BlobReport]]:
        """Return at most `SHOWN_BLOBS` blobs of each task, in one round trip.

        They are in the order of the task's plan. Of a task with more, those that failed come first, then those under
        way, and then those that wait.
        """
        places = [SHOWN_FIELD, *range(SHOWN_BLOBS)]
        found = self._redis.calls(
            [["HMGET", keys.task_blobs(task_id), *places] for task_id in task_ids], raise_on_error=False
        )
        return [_shown_blobs(texts) if not isinstance(texts, ResponseError) else [] for texts in found]

    def blobs(self, job_id: str, task_id: str, *, limit: int, after: int | None) -> tuple[list[BlobReport], int | None]:
        """Return at most *limit* blobs after the place *after* in the task's plan.

        The second value is the place to continue from. It is None after the last blob that is kept (`KEPT_BLOBS`).
        Raises JobUnknown or TaskUnknown.
        """
        self.task_of(job_id, task_id)
        first = 0 if after is None else after + 1
        texts = self._redis.call("HMGET", keys.task_blobs(task_id), *range(first, first + limit + 1))
        found = [BlobReport.from_json(text) for text in texts if text]
        return found[:limit], first + limit - 1 if len(found) > limit else None

    def page(
        self, *, limit: int, before: str | None, state: JobState | None, source: str | None
    ) -> tuple[list[Job], str | None]:
        """Return at most *limit* jobs older than the job *before*, newest first.

        The second value is the id to continue from, if any. With both filters, the jobs of the source are read and
        those in other states left out.
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
            self._unlist(key, [job_id for job_id, record in zip(ids, records, strict=True) if not record])
            jobs = [Job.from_record(record) for record in records if record]
            found += [job for job in jobs if state in (None, job.state)]
            upper = f"({ids[-1]}"
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    def _unlist(self, key: str, job_ids: Sequence[str]) -> None:
        """Take jobs without a record out of a list.

        Those that are being submitted or removed stay.
        """
        if job_ids:
            due = self._redis.call("ZMSCORE", keys.JOBS_LEFTOVER, *job_ids)
            if gone := [job_id for job_id, score in zip(job_ids, due, strict=True) if score is None]:
                self._redis.call("ZREM", key, *gone)

    def cancel(self, job_id: str) -> None:
        """Cancel the tasks that wait, and let the workers stop the others.

        Twice is the same as once.

        Raises JobUnknown or JobFinished.
        """
        granted, state, more = self._cancel(args=[_job_id(job_id), secrets.token_hex(16)])
        if not state:
            raise JobUnknown(job_id)
        if not granted:
            raise JobFinished(job_id, state)
        while more:
            more, *_ = self._step(args=[job_id])

    def retry(self, job_id: str) -> list[Entry]:
        """Queue the failed and canceled tasks of an ended job again.

        Return the queue entries of the released ones.

        Raises JobUnknown, JobUnfinished or JobSucceeded.
        """
        granted, state, more, *entries = self._retry(args=[_job_id(job_id), secrets.token_hex(16)])
        if not state:
            raise JobUnknown(job_id)
        if not granted:
            raise JobUnfinished(job_id, state) if state in UNFINISHED else JobSucceeded(job_id)
        while more:
            more, *released = self._step(args=[job_id])
            entries += released
        return read_entries(entries)

    def delete(self, job_id: str) -> None:
        """Remove an ended job with everything that belongs to it.

        Raises JobUnknown or JobUnfinished.
        """
        state = self._remove(args=[_job_id(job_id), 0])
        if not state:
            raise JobUnknown(job_id)
        if state in UNFINISHED:
            raise JobUnfinished(job_id, state)
        while self._delete_leftover(args=[job_id]):
            pass


def read_entries(flat: Sequence[str | int]) -> list[Entry]:
    """Read a script's list of ids, fences and lanes."""
    return list(zip(map(str, flat[::3]), map(int, flat[1::3]), map(str, flat[2::3]), strict=True))


def task_arguments(tasks: Sequence[Task]) -> tuple[str, str, str]:
    """Return what the scripts that store tasks need, each as JSON.

    That is what the tasks have in common, what differs, and the keys of their sources' indexes. To dump each whole task
    would take 0.1 ms.
    """
    common = {name: text for name, text in tasks[0].to_record().items() if name not in ("id", "spec", "kind")}
    own = [_own_fields(task) for task in tasks]
    indexes = sorted({keys.jobs_by_source(str(task.spec.source)) for task in tasks})
    return json.dumps(common), json.dumps(own), json.dumps(indexes)


def _target_owners(tasks: Sequence[Task]) -> list[str]:
    """Return in turn the targets of the copies and who has each: see `mirror.records.targets`."""
    copies = [(task.id, task.spec) for task in tasks if isinstance(task.spec, CopySpec)]
    return [text for task_id, spec in copies for text in (str(spec.target), f"{task_id} {spec.source}")]


def _own_fields(task: Task) -> dict[str, str]:
    own = {"id": task.id, "spec": task.spec.to_json()}
    return own if task.spec.kind == "copy" else {**own, "kind": task.spec.kind}


def _job_id(text: str) -> str:
    """Return an id from outside, which must not become the name of another key.

    Raises JobUnknown.
    """
    if not _JOB_ID.fullmatch(text):
        raise JobUnknown(text)
    return text


def _shown_blobs(texts: Sequence[str | None]) -> list[BlobReport]:
    """Read the list of blobs to show, or else the first blobs of the plan."""
    chosen, *first = texts
    return [BlobReport.from_json(text) for text in (json.loads(chosen) if chosen else first) if text]


def _readable_task(record: Mapping[str, str]) -> Task | None:
    """Read a task for a list.

    One that cannot be read is left out. It fails when it is claimed.
    """
    try:
        return Task.from_record(record)
    except Exception as error:  # noqa: BLE001 - the others are listed
        record_fault("reading a task", error, task_id=record.get("id"))
        return None
