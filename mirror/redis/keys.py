"""Every Redis key of Image Mirror.

All stand under ``mirror:``, and no other module spells one.

Times are in ms since the epoch, by Redis' clock. A set that is "lexical" is a sorted set whose scores are all 0, so
Redis orders it by name.
"""

from __future__ import annotations

from typing import Final, Literal

from mirror.oci.digest import Digest

_ROOT: Final = "mirror"
_LEASE: Final = f"{_ROOT}:lease:"

RQ_PREFIX: Final = f"{_ROOT}:rq"
"""RQ's own keys stand under it."""
CLOCK: Final = f"{_ROOT}:clock"
"""The latest time that was read. It makes Redis' TIME monotonic."""
CLOCK_SLOWED: Final = f"{_ROOT}:clock:slowed"
"""How the clock goes on since Redis' TIME was set back: the time then, TIME then in microseconds, and the speed."""
PROBE: Final = f"{_ROOT}:probe"
"""Written by /readyz, to see whether Redis takes writes."""

JOBS: Final = f"{_ROOT}:jobs"
"""Set of all job ids, lexical. ULIDs sort by time."""
PLANS: Final = f"{_ROOT}:plans"
"""Set of the ids of the jobs that are plans, lexical."""
JOBS_ENDED: Final = f"{_ROOT}:jobs:ended"
"""Sorted set of ended jobs, by the time when each is removed."""
JOBS_WATCHED: Final = f"{_ROOT}:jobs:watched"
"""Sorted set of jobs that the reconciler looks at, by the time of that.

They have a cancel or retry under way, or pending tasks.
"""
JOBS_LEFTOVER: Final = f"{_ROOT}:jobs:leftover"
"""Sorted set of jobs without a record whose tasks are to be deleted, by the time of that."""
TASKS_QUEUED: Final = f"{_ROOT}:tasks:queued"
"""Sorted set of task ids, by the time when each was queued."""
TASKS_RUNNING: Final = f"{_ROOT}:tasks:running"
"""Sorted set of task ids, by the time when each lease expires."""
TASKS_PARKED: Final = f"{_ROOT}:tasks:parked"
"""Sorted set of task ids, by the time when each is due."""

SCHEDULES: Final = f"{_ROOT}:schedules"
"""Set of all schedule ids, lexical."""
SCHEDULE_NAMES: Final = f"{_ROOT}:schedules:names"
"""Hash from the name of a schedule to its id."""
SCHEDULES_DUE: Final = f"{_ROOT}:schedules:due"
"""Sorted set of enabled schedules, by the time of the next run of each. Times of schedules are by the wall clock."""
SCHEDULES_TICKED: Final = f"{_ROOT}:schedules:ticked"
"""The time of the last look at due schedules. One that lies ahead shows that the wall clock was set back."""
SYNC_FILE: Final = f"{_ROOT}:sync-file"
"""What became of the sync file, as JSON. It has no secrets."""
RUNS_OPEN: Final = f"{_ROOT}:runs:open"
"""Sorted set of runs that have not ended, by the deadline of each."""

QUEUE_TURNS: Final = f"{_ROOT}:queue:turns"
"""Hash from a lane of the queue to its virtual time, by which lanes take turns. ``now`` is that of the last turn."""

PINS_DELETING: Final = f"{_ROOT}:pin:deleting"
"""Sorted set of digests that are being deleted, by the time when the right to delete each expires."""

STORAGE_TROUBLE: Final = f"{_ROOT}:storage:trouble"
"""The circuit breaker of the bucket, as a hash: since when S3 takes no writes, why, and when the next trial is."""

CURRENT_TAGS_EPOCH: Final = f"{_ROOT}:tags:epoch"
"""The time when this Redis was empty, and the first tag was written to it."""

INDEX_BUILT: Final = f"{_ROOT}:index:built"
"""Exists once the index has been rebuilt from the bucket."""
INDEX_REBUILD: Final = f"{_ROOT}:index:rebuild"
"""The rebuild in progress, as a hash: run, tags, repository."""
INDEX_CHANGED: Final = f"{_ROOT}:index:changed"
"""Set of the ``repository:tag`` that were changed before the index was built."""
INDEX_REPOSITORIES: Final = f"{_ROOT}:index:repositories"
"""Set of repository names, lexical."""
INDEX_IMAGES: Final = f"{_ROOT}:index:images"
"""Set of ``repository:tag``, lexical."""
INDEX_BYTES: Final = f"{_ROOT}:index:bytes"
"""Hash from a repository to the bytes of the distinct blobs that its tags need."""


def periodic_lease(task: str) -> str:
    """Of one periodic task in the fleet.

    A lease is the holder's token, with an expiry.
    """
    return f"{_LEASE}periodic:{task}"


def tag_lease(repository: str, tag: str) -> str:
    """Of one change of a tag at a time."""
    return f"{_LEASE}tag:{repository}:{tag}"


def image_record_lease(repository: str, digest: Digest) -> str:
    """Of one process at a time that reads and replaces the record of where an image came from."""
    return f"{_LEASE}image-record:{repository}:{digest}"


def release_lease(job_id: str) -> str:
    """Of one process at a time that moves the tags of an atomic job."""
    return f"{_LEASE}release:{job_id}"


def drift_lease(schedule_id: str) -> str:
    """Of one process at a time that starts the plan of a drift report."""
    return f"{_LEASE}drift:{schedule_id}"


def blob_lease(digest: Digest) -> str:
    """Of one transfer of a blob at a time."""
    return f"{_LEASE}blob:{digest}"


def blob_checkpoint(digest: Digest) -> str:
    """The progress of a blob's transfer, as a hash.

    Its fields are the upload id, the parts and the state of the digest.
    """
    return f"{_ROOT}:blob:checkpoint:{digest}"


def blob_brought(digest: Digest) -> str:
    """Exists for a minute after the blob was copied."""
    return f"{_ROOT}:blob:brought:{digest}"


def jobs_by_source(reference: str) -> str:
    """Set of the ids of the jobs with that source, lexical."""
    return f"{_ROOT}:jobs:source:{reference}"


def jobs_by_state(state: str) -> str:
    """Set of the ids of the jobs in that state, lexical."""
    return f"{_ROOT}:jobs:state:{state}"


def job(job_id: str) -> str:
    """A job's record."""
    return f"{_ROOT}:job:{job_id}"


def job_tasks(job_id: str) -> str:
    """Set of the ids of the job's tasks, lexical."""
    return f"{_ROOT}:job:{job_id}:tasks"


def job_pending(job_id: str) -> str:
    """List of the ids of the job's tasks that are not released into the window yet."""
    return f"{_ROOT}:job:{job_id}:pending"


def job_targets(job_id: str) -> str:
    """Hash from the name of a target to the task of the job that has claimed it, and its source there."""
    return f"{_ROOT}:job:{job_id}:targets"


def job_share(job_id: str) -> str:
    """Set of the ids of the job's tasks that are queued or running and have a place in the short lane."""
    return f"{_ROOT}:job:{job_id}:share"


def job_bulk(job_id: str) -> str:
    """Set of the ids of the job's other tasks that have a queue entry, lexical. Some of them may be running."""
    return f"{_ROOT}:job:{job_id}:bulk"


def task(task_id: str) -> str:
    """A task's record."""
    return f"{_ROOT}:task:{task_id}"


def task_blobs(task_id: str) -> str:
    """Hash from a position in the plan to the state of that blob as JSON.

    It has the first 1 000 blobs.

    ``shown`` is the list of the positions to show, if there are more than 100.
    """
    return f"{_ROOT}:task:{task_id}:blobs"


def task_waits(task_id: str) -> str:
    """Hash from a reason to the time since when the task waits for it.

    ``<reason>:until`` is the time when its last rest ends.
    """
    return f"{_ROOT}:task:{task_id}:waits"


def task_needs(task_id: str) -> str:
    """The bytes that the task's image needs on a disk that had no room for it."""
    return f"{_ROOT}:task:{task_id}:needs"


def plan_blobs(job_id: str) -> str:
    """Set of the blobs that the totals of a plan have counted. Each is the start of its digest."""
    return f"{_ROOT}:job:{job_id}:plan-blobs"


def task_selection(task_id: str) -> str:
    """Hash from the number of a part to the tags of a selection, packed: see `mirror.records.selections`."""
    return f"{_ROOT}:task:{task_id}:selection"


def schedule(schedule_id: str) -> str:
    """A schedule's record."""
    return f"{_ROOT}:schedule:{schedule_id}"


def schedule_slots(schedule_id: str) -> str:
    """Sorted set of stretches of slots that were claimed: the first slot of each, by its last slot."""
    return f"{_ROOT}:schedule:{schedule_id}:slots"


def schedule_runs(schedule_id: str) -> str:
    """Set of the ids of the schedule's runs, lexical. It has the latest ones."""
    return f"{_ROOT}:schedule:{schedule_id}:runs"


def schedule_tags(schedule_id: str) -> str:
    """Hash from a target that the schedule has mirrored to its source, and since when that lacks it, as JSON."""
    return f"{_ROOT}:schedule:{schedule_id}:tags"


def schedule_drift(schedule_id: str) -> str:
    """Version and plan of the schedule's last drift report."""
    return f"{_ROOT}:schedule:{schedule_id}:drift"


def run(run_id: str) -> str:
    """The record of a run of a schedule."""
    return f"{_ROOT}:run:{run_id}"


def observed_tags(repository: str) -> str:
    """Hash from a tag of a source to the digest that it shows, and when it was first seen with it, as JSON."""
    return f"{_ROOT}:observed:{repository}"


def tag_taken(repository: str) -> str:
    """Hash from a tag to the highest number that was taken from its sequence."""
    return f"{_ROOT}:tag:taken:{repository}"


def tag_published(repository: str) -> str:
    """Hash from a tag to the change that moved it last, as JSON: number, by."""
    return f"{_ROOT}:tag:published:{repository}"


def pin_holder(holder: str) -> str:
    """Exists while the holder of pins lives."""
    return f"{_ROOT}:pin:holder:{holder}"


def quota(part: Literal["limited", "ledger", "reserved", "cost"], *of: str) -> str:
    """Pull limits.

    An account is a registry, a credential and an egress, the latter two as hashes.

    - ``limited``, of a registry: exists while the registry is known to have a pull limit
    - ``ledger``, of an account: the limit as last reported, as a hash: limit, window, remaining, told_at, started
    - ``reserved``, of an account: sorted set of reserved manifest reads without an answer yet, by expiry
    - ``cost``, of a digest: how many manifests the image has
    """
    return ":".join([_ROOT, "quota", part, *of])


def limiter(part: Literal["limit", "holders", "shares"], registry: str, action: str) -> str:
    """Concurrent requests of one action to a registry.

    - ``limit``: a hash: limit, grown_at, halved_at, streak
    - ``holders``: sorted set of the processes that send requests, by expiry
    - ``shares``: hash from a holder to the requests that it may have in progress, or has
    """
    return f"{_ROOT}:slots:{part}:{registry}:{action}"


def heartbeats(kind: str) -> str:
    """Hash from a process to the time of its last heartbeat and what it did then."""
    return f"{_ROOT}:heartbeats:{kind}"


def breaker(registry: str) -> str:
    """The circuit breaker of a registry, as a hash.

    Its fields count the failures in a row and hold their last cause. They say until when the breaker is open, and when
    the registry last sent what was asked for. They also say until when no HEAD of a manifest is sent.
    """
    return f"{_ROOT}:breaker:{registry}"


def current_tags(life: str, repository: str) -> str:
    """Hash from a tag to the digest that it shows. *life* is the ``run_id`` of the server and the epoch.

    The digest is empty if there is no such tag, and ``?`` while the tag is changed.
    """
    return f"{_ROOT}:tags:{life}:{repository}"


def index_entries(repository: str) -> str:
    """Hash from a tag to the image's entry as JSON."""
    return f"{_ROOT}:index:entries:{repository}"


def index_blobs(repository: str) -> str:
    """Hash from a digest to the number of tags that need it."""
    return f"{_ROOT}:index:blobs:{repository}"


def index_checked(repository: str) -> str:
    """Hash from a tag to the time when a job last compared it with its source."""
    return f"{_ROOT}:index:checked:{repository}"


LUA: Final[dict[str, str]] = {
    "clock": CLOCK,
    "clock_slowed": CLOCK_SLOWED,
    "jobs": JOBS,
    "jobs_by_state": jobs_by_state("*"),
    "jobs_by_source": jobs_by_source("*"),
    "jobs_ended": JOBS_ENDED,
    "jobs_watched": JOBS_WATCHED,
    "jobs_leftover": JOBS_LEFTOVER,
    "job": job("*"),
    "job_tasks": job_tasks("*"),
    "job_pending": job_pending("*"),
    "job_targets": job_targets("*"),
    "job_share": job_share("*"),
    "job_bulk": job_bulk("*"),
    "plans": PLANS,
    "plan_blobs": plan_blobs("*"),
    "task": task("*"),
    "task_blobs": task_blobs("*"),
    "task_waits": task_waits("*"),
    "task_needs": task_needs("*"),
    "task_selection": task_selection("*"),
    "tasks_queued": TASKS_QUEUED,
    "tasks_running": TASKS_RUNNING,
    "tasks_parked": TASKS_PARKED,
    "queue_turns": QUEUE_TURNS,
    "schedules": SCHEDULES,
    "schedule_names": SCHEDULE_NAMES,
    "schedules_due": SCHEDULES_DUE,
    "schedules_ticked": SCHEDULES_TICKED,
    "schedule": schedule("*"),
    "schedule_slots": schedule_slots("*"),
    "schedule_runs": schedule_runs("*"),
    "schedule_tags": schedule_tags("*"),
    "run": run("*"),
    "runs_open": RUNS_OPEN,
    "pin": f"{_ROOT}:pin:*",  # set of the holders that have pinned a digest
    "pin_holder": pin_holder("*"),
    "pins_deleting": PINS_DELETING,
    "current_tags": f"{_ROOT}:tags:*",  # the id is the life and the repository, as in `current_tags`
    "current_tags_epoch": CURRENT_TAGS_EPOCH,
    "index_built": INDEX_BUILT,
    "index_rebuild": INDEX_REBUILD,
    "index_changed": INDEX_CHANGED,
    "index_repositories": INDEX_REPOSITORIES,
    "index_images": INDEX_IMAGES,
    "index_bytes": INDEX_BYTES,
}
"""The keys that Lua scripts spell as ``KEY.name``, or ``KEY.name(id)`` where ``*`` stands for the id."""
