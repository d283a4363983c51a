"""Plans: jobs of the kind ``plan``, which say what they would do, image by image.

A plan shares its ULID with its job: ``plan_01J…`` is the plan of ``job_01J…``. What was found for an image is in the
record of its task. The totals are in the record of the job. A blob that several images share counts once in them.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, Self, get_args

from mirror.errors import JobUnknown, PlanUnknown
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.records.claims import Claim
from mirror.records.fields import Count, at
from mirror.records.job import Job
from mirror.records.jobs import JobStore
from mirror.records.spec import CopySpec
from mirror.records.states import STEP, UNFINISHED, JobState, job_script
from mirror.records.task import Task
from mirror.redis import keys
from mirror.redis.client import Redis

PlanAction = Literal["copy", "unchanged", "skip", "drifted", "fail"]
PLAN_ACTIONS: Final[tuple[PlanAction, ...]] = get_args(PlanAction)
PlanState = Literal["planning", "ready", "partial", "failed", "canceled"]
PLAN_STATES: Final[tuple[PlanState, ...]] = get_args(PlanState)
_STATES: Final[Mapping[JobState, PlanState]] = {
    "queued": "planning",
    "running": "planning",
    "succeeded": "ready",
    "partial": "partial",
    "failed": "failed",
    "canceled": "canceled",
}
_PLAN_ID: Final = re.compile("plan_[0-9A-Z]{26}", re.ASCII)
_PAGE: Final = 100
_COUNT: Final = Count()
_MOST_SCANNED: Final = 1_000
"""Tasks that one request reads for a filtered page. They take about 0.2 s."""


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What a dry run found for one image.

    ``digest`` is that of the source, to which the plan is pinned. ``result_digest`` is what the tag will show. They
    differ where an index is rewritten or one platform is chosen. Bytes are of configs and layers. The requests are
    those that a copy sends to the source: for each blob, and its own ones for manifests, for configs that name a
    platform, and to ask for foreign layers. ``pull_quota`` counts the manifests that the plan has read and that count
    against a pull limit. ``code`` names the reason for programs.
    """

    action: PlanAction
    reason: str
    code: str | None = None
    digest: str | None = None
    result_digest: str | None = None
    bytes_to_copy: int = 0
    bytes_held: int = 0
    own_requests: int = 0
    blob_requests: int = 0
    pull_quota: int = 0

    @property
    def requests(self) -> int:
        return self.own_requests + self.blob_requests

    def fields(self) -> dict[str, Any]:
        """Return the document that a task stores, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def of(cls, task: Task) -> Self | None:
        """Return what is known of the task's image. None until it was planned."""
        if task.plan is not None:
            known = {field.name for field in dataclasses.fields(cls)}
            return cls(**{name: value for name, value in task.plan.items() if name in known})
        if task.state == "failed" and task.error is not None:
            return cls("fail", task.error.message, task.error.code)
        return None


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """The sums over all images of a plan that are planned so far.

    Each blob counts once, however many images need it. They are exact unless ``is_bound``: then bytes and requests are
    an upper bound.
    """

    copy: int = 0
    unchanged: int = 0
    skip: int = 0
    drifted: int = 0
    bytes_to_copy: int = 0
    bytes_held: int = 0
    own_requests: int = 0
    blob_requests: int = 0
    pull_quota: int = 0
    is_bound: bool = False

    @property
    def requests(self) -> int:
        return self.own_requests + self.blob_requests

    @classmethod
    def from_record(cls, values: Sequence[str | None]) -> Self:
        """Read the fields `_TOTALS` of a job's record."""
        found = dict(zip(_TOTALS, values, strict=True))
        numbers = {name: _COUNT.deserialize(found[name] or 0) for name in _TOTALS if name != "is_bound"}
        return cls(**numbers, is_bound=found["is_bound"] == "1")


_TOTALS: Final = tuple(field.name for field in dataclasses.fields(PlanTotals))


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan and its job. It ``expires_at`` a time that is None until the plan has ended."""

    job: Job
    totals: PlanTotals
    expires_at: datetime | None

    @property
    def id(self) -> str:
        return plan_id_of(self.job.id)

    @property
    def state(self) -> PlanState:
        return _STATES[self.job.state]

    @property
    def is_ready(self) -> bool:
        """Whether it may be applied. Images that could not be planned are no part of it."""
        return self.state in ("ready", "partial")


class PlanStore:
    """Reads plans, and counts the blobs of their images. Safe to share between threads.

    Every method raises RedisUnavailable.
    """

    def __init__(self, redis: Redis, jobs: JobStore) -> None:
        self._redis = redis
        self._jobs = jobs
        self._count_blobs = redis.script(job_script("count_plan_blobs.lua"))

    def read(self, plan_id: str) -> Plan:
        """Raises PlanUnknown, also for a plan that has expired and is not removed yet."""
        if not _PLAN_ID.fullmatch(plan_id):
            raise PlanUnknown(plan_id)
        try:
            job = self._jobs.job(_job_id_of(plan_id))
        except JobUnknown:
            raise PlanUnknown(plan_id) from None
        for plan in self._plans([job]):
            return plan
        raise PlanUnknown(plan_id)

    def page(self, *, limit: int, before: str | None) -> tuple[list[Plan], str | None]:
        """Return at most *limit* plans older than the plan *before*, newest first, and the id to continue from."""
        upper = f"({_job_id_of(before)}" if before else "+"
        ids = self._redis.call("ZREVRANGEBYLEX", keys.PLANS, upper, "-", "LIMIT", 0, limit + 1)
        records = self._redis.calls([["HGETALL", keys.job(job_id)] for job_id in ids[:limit]])
        found = self._plans([Job.from_record(record) for record in records if record])
        return found, plan_id_of(ids[limit - 1]) if len(ids) > limit else None

    def images(
        self, plan: Plan, *, limit: int, after: str | None = None, action: PlanAction | None = None
    ) -> tuple[list[Task], str | None]:
        """Return at most *limit* images after the task *after*, in their order, and the id to continue from.

        With *action*, one call reads at most `_MOST_SCANNED` tasks. So a page may have fewer images than there are, and
        still name a place to continue from.
        """
        found: list[Task] = []
        for scanned, task in enumerate(self._tasks(plan.job.id, after)):
            if len(found) == limit or scanned == _MOST_SCANNED:
                return found, after
            after = task.id
            image = ImagePlan.of(task)
            if _is_image(task) and action in (None, image and image.action):
                found.append(task)
        return found, None

    def pinned(self, plan: Plan) -> Iterator[CopySpec]:
        """Yield a copy of each image that is to be copied, or was unchanged, pinned to the planned digest."""
        for task in self._tasks(plan.job.id, None):
            image = ImagePlan.of(task)
            if isinstance(task.spec, CopySpec) and image and image.digest and image.action in ("copy", "unchanged"):
                source = replace(task.spec.source, digest=Digest.parse(image.digest))
                yield replace(task.spec, source=source, is_dry_run=False)

    def count_blobs(self, claim: Claim, missing: Sequence[tuple[Descriptor, int]], held: Sequence[Descriptor]) -> None:
        """Add the blobs of the claimed task's image to the totals of its plan, right before the task succeeds.

        *missing* are those to copy, each with the requests that its copy sends. A blob that was counted before adds
        nothing. Neither does a call whose claim is void.
        """
        counted = [
            *((_start(blob.digest), blob.size, 0, requests) for blob, requests in missing),
            *((_start(blob.digest), 0, blob.size, 0) for blob in held),
        ]
        for begin in range(0, len(counted), STEP):
            part = [argument for blob in counted[begin : begin + STEP] for argument in blob]
            self._count_blobs(args=[*claim.proof, *part])

    def _tasks(self, job_id: str, after: str | None) -> Iterator[Task]:
        while page := self._jobs.tasks(job_id, _PAGE, after=after):
            yield from page
            after = page[-1].id

    def _plans(self, jobs: Sequence[Job]) -> list[Plan]:
        """Return the plans among *jobs* that have not expired."""
        now = self._redis.now()
        fields = [f"plan_{name}" for name in _TOTALS]
        read: list[list[str | float]] = []
        for job in jobs:
            read += [["HMGET", keys.job(job.id), *fields], ["ZSCORE", keys.JOBS_ENDED, job.id]]
        found = self._redis.calls(read)
        plans: list[Plan] = []
        for job, values, removed in zip(jobs, found[::2], found[1::2], strict=True):
            ends = int(float(removed)) if removed and job.state not in UNFINISHED else None
            if job.options.kind == "plan" and (ends is None or ends > now):
                plans.append(Plan(job, PlanTotals.from_record(values), None if ends is None else at(ends)))
        return plans


def _is_image(task: Task) -> bool:
    """Whether a plan shows the task: an image, or an expansion that failed."""
    return task.spec.kind == "copy" or (task.spec.kind == "expand" and task.state == "failed")


def plan_id_of(job_id: str) -> str:
    return f"plan_{job_id.partition('_')[2]}"


def _job_id_of(plan_id: str) -> str:
    return f"job_{plan_id.partition('_')[2]}"


def _start(digest: Digest) -> str:
    """Return 128 bits of a digest as text. They distinguish the blobs of a plan, in a quarter of the memory."""
    return base64.b64encode(bytes.fromhex(digest.hex)[:16]).decode().rstrip("=")
