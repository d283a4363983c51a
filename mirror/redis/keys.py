"""Every Redis key of Image Mirror. All stand under ``mirror:``, and no other module spells one.

Times are in ms since the epoch, by Redis' clock. "Scored by" names the score of a sorted set. A set that is "lexical"
has only scores of 0, so Redis orders it by name. An account is a registry, a credential and an egress, the latter two
as hashes.

mirror:rq:…                        RQ's own keys (the transport)
mirror:clock                       the latest time that was read: makes Redis' TIME monotonic
mirror:lease:<name>                a lease: the holder's token, with an expiry
mirror:blob:checkpoint:<digest>    the progress of a blob's transfer: upload id, parts, hash
mirror:blob:brought:<digest>       exists for a minute after the blob was copied
mirror:jobs                        all job ids, lexical (ULIDs sort by time)
mirror:jobs:state:<state>          the ids of the jobs in that state, lexical
mirror:jobs:source:<reference>     the ids of the jobs with that source, lexical
mirror:jobs:ended                  the ids of ended jobs, scored by when each is removed
mirror:job:<id>                    a job's record
mirror:job:<id>:tasks              its task ids, lexical
mirror:task:<id>                   a task's record
mirror:task:<id>:blobs             position in the plan -> the blob's state as JSON, for the first 1 000 blobs;
                                   ``shown`` -> the list of those to show, if there are more than 100
mirror:task:<id>:waits             reason -> since when the task waits for it; <reason>:until -> when its last rest ends
mirror:task:<id>:needs             bytes that the task's image needs on a disk that had no room for it
mirror:tasks:queued                task ids, scored by when each was queued
mirror:tasks:running               task ids, scored by when each lease expires
mirror:tasks:parked                task ids, scored by when each is due
mirror:tag:taken:<repository>      tag -> the highest number that was taken from the tag's sequence
mirror:tag:published:<repository>  tag -> {number, by}: the change that moved the tag last
mirror:pin:<digest>                the holders that have pinned the digest
mirror:pin:holder:<holder>         exists while that holder lives
mirror:pin:deleting                digests being deleted, scored by when the right to delete them expires
mirror:quota:limited:<registry>    exists while the registry is known to have a pull limit
mirror:quota:ledger:<account>      the last reported pull limit: limit, window, remaining, told_at, started
mirror:quota:reserved:<account>    reserved manifest reads without an answer yet, scored by expiry
mirror:quota:cost:<digest>         how many manifests the image has
mirror:slots:limit:<registry>:<action>    the limit of concurrent requests: limit, grown_at, halved_at, streak
mirror:slots:holders:<registry>:<action>  the processes that send requests, scored by expiry
mirror:slots:shares:<registry>:<action>   holder -> the requests it may have in progress, or has
mirror:heartbeats:<kind>           process -> the time of its last heartbeat, and what it did
mirror:storage:trouble             the circuit breaker of the bucket: since when S3 takes no writes, why, the next trial
mirror:probe                       written by /readyz to see whether Redis takes writes
mirror:breaker:<registry>          the circuit breaker of a registry: failures in a row, their last cause, open until,
                                   last answer, until when no HEAD of a manifest is sent
mirror:index:built                 exists once the index has been rebuilt from the bucket
mirror:index:rebuild               the rebuild in progress: run, tags, repository, begun_at
mirror:index:changed               ``repository:tag`` of every change that was listed before the index was built
mirror:index:repositories          repository names, lexical
mirror:index:images                ``repository:tag``, lexical
mirror:index:entries:<repository>  tag -> the image's entry as JSON
mirror:index:blobs:<repository>    digest -> how many tags need it
mirror:index:bytes                 repository -> bytes of the distinct blobs that its tags need
"""

from __future__ import annotations

from typing import Final, Literal

from mirror.oci.digest import Digest

_ROOT: Final = "mirror"

RQ_PREFIX: Final = f"{_ROOT}:rq"
CLOCK: Final = f"{_ROOT}:clock"
_LEASE: Final = f"{_ROOT}:lease:"

JOBS: Final = f"{_ROOT}:jobs"
JOBS_BY_STATE: Final = f"{_ROOT}:jobs:state:"
JOBS_BY_SOURCE: Final = f"{_ROOT}:jobs:source:"
JOBS_ENDED: Final = f"{_ROOT}:jobs:ended"
JOB: Final = f"{_ROOT}:job:"
TASK: Final = f"{_ROOT}:task:"
TASKS_QUEUED: Final = f"{_ROOT}:tasks:queued"
TASKS_RUNNING: Final = f"{_ROOT}:tasks:running"
TASKS_PARKED: Final = f"{_ROOT}:tasks:parked"

PINS_DELETING: Final = f"{_ROOT}:pin:deleting"

STORAGE_TROUBLE: Final = f"{_ROOT}:storage:trouble"
PROBE: Final = f"{_ROOT}:probe"

INDEX_BUILT: Final = f"{_ROOT}:index:built"
INDEX_REBUILD: Final = f"{_ROOT}:index:rebuild"
INDEX_CHANGED: Final = f"{_ROOT}:index:changed"
INDEX_REPOSITORIES: Final = f"{_ROOT}:index:repositories"
INDEX_IMAGES: Final = f"{_ROOT}:index:images"
INDEX_BYTES: Final = f"{_ROOT}:index:bytes"


def periodic_lease(task: str) -> str:
    return f"{_LEASE}periodic:{task}"


def tag_lease(repository: str, tag: str) -> str:
    return f"{_LEASE}tag:{repository}:{tag}"


def blob_lease(digest: Digest) -> str:
    return f"{_LEASE}blob:{digest}"


def blob_checkpoint(digest: Digest) -> str:
    return f"{_ROOT}:blob:checkpoint:{digest}"


def blob_brought(digest: Digest) -> str:
    return f"{_ROOT}:blob:brought:{digest}"


def jobs_by_source(reference: str) -> str:
    return f"{JOBS_BY_SOURCE}{reference}"


def jobs_by_state(state: str) -> str:
    return f"{JOBS_BY_STATE}{state}"


def job(job_id: str) -> str:
    return f"{JOB}{job_id}"


def job_tasks(job_id: str) -> str:
    return f"{JOB}{job_id}:tasks"


def task(task_id: str) -> str:
    return f"{TASK}{task_id}"


def task_blobs(task_id: str) -> str:
    return f"{TASK}{task_id}:blobs"


def task_waits(task_id: str) -> str:
    return f"{TASK}{task_id}:waits"


def task_needs(task_id: str) -> str:
    return f"{TASK}{task_id}:needs"


def tag_taken(repository: str) -> str:
    return f"{_ROOT}:tag:taken:{repository}"


def tag_published(repository: str) -> str:
    return f"{_ROOT}:tag:published:{repository}"


def pin_holder(holder: str) -> str:
    return f"{_ROOT}:pin:holder:{holder}"


def quota(part: Literal["limited", "ledger", "reserved", "cost"], *of: str) -> str:
    """*of* is the registry for ``limited``, the account for ``ledger`` and ``reserved``, the digest for ``cost``."""
    return ":".join([_ROOT, "quota", part, *of])


def limiter(part: Literal["limit", "holders", "shares"], registry: str, action: str) -> str:
    return f"{_ROOT}:slots:{part}:{registry}:{action}"


def heartbeats(kind: str) -> str:
    return f"{_ROOT}:heartbeats:{kind}"


def breaker(registry: str) -> str:
    return f"{_ROOT}:breaker:{registry}"


def index_entries(repository: str) -> str:
    return f"{_ROOT}:index:entries:{repository}"


def index_blobs(repository: str) -> str:
    return f"{_ROOT}:index:blobs:{repository}"


LUA: Final[dict[str, str]] = {
    "clock": CLOCK,
    "jobs": JOBS,
    "jobs_by_state": jobs_by_state("*"),
    "jobs_by_source": jobs_by_source("*"),
    "jobs_ended": JOBS_ENDED,
    "job": job("*"),
    "job_tasks": job_tasks("*"),
    "task": task("*"),
    "task_blobs": task_blobs("*"),
    "task_waits": task_waits("*"),
    "tasks_queued": TASKS_QUEUED,
    "tasks_running": TASKS_RUNNING,
    "tasks_parked": TASKS_PARKED,
    "pin": f"{_ROOT}:pin:*",
    "pin_holder": pin_holder("*"),
    "pins_deleting": PINS_DELETING,
    "index_built": INDEX_BUILT,
    "index_rebuild": INDEX_REBUILD,
    "index_changed": INDEX_CHANGED,
    "index_repositories": INDEX_REPOSITORIES,
    "index_images": INDEX_IMAGES,
    "index_bytes": INDEX_BYTES,
}
"""The keys that Lua scripts spell as ``KEY.name``, or ``KEY.name(id)`` where ``*`` stands for the id."""
