"""Every Redis key of Image Mirror. Nothing else spells one; all stand under ``mirror:``.

mirror:rq:…                        RQ's own keys (the transport)
mirror:clock                       the latest time seen, ms: Redis TIME made monotonic
mirror:lease:<name>                a lease: the holder's token, with an expiry
mirror:blob:checkpoint:<digest>    how far the blob's transfer has come: upload id, parts, hash
mirror:blob:brought:<digest>       exists for a minute after the blob has come
mirror:jobs                        all job ids, lexical (ULIDs sort by time)
mirror:jobs:state:<state>          the job ids in that state, lexical
mirror:jobs:source:<reference>     the job ids of that source, lexical
mirror:jobs:ended                  the ids of ended jobs, scored by when each is forgotten, ms
mirror:jobs:watched                jobs with a cancel or retry under way, or with pending tasks, scored by when the
                                   reconciler looks at them, ms
mirror:jobs:leftover               jobs without a record whose tasks are to be deleted, scored by when, ms
mirror:job:<id>                    a job's record
mirror:job:<id>:tasks              its task ids, lexical
mirror:job:<id>:pending            a list of its task ids that are not released into the window yet
mirror:task:<id>                   a task's record
mirror:task:<id>:blobs             position in the plan -> the blob's state, as JSON, for the first 1 000 of them;
                                   ``shown`` -> a list of those to show, where there are more than 100
mirror:task:<id>:waits             reason -> since when the task waits for it, ms; <reason>:until -> its last rest's end
mirror:task:<id>:needs             bytes the task's image needs on a disk that had no room for it
mirror:tasks:queued                task id, scored by when it was queued, ms
mirror:tasks:running               task id, scored by when its lease ends, ms
mirror:tasks:parked                task id, scored by when it is due, ms
mirror:tag:taken:<repository>      tag -> the last number of the tag's sequence that was taken
mirror:tag:published:<repository>  tag -> {number, by}: who moved the tag last
mirror:pin:<digest>                the holders that count on the digest
mirror:pin:holder:<holder>         exists while that holder lives
mirror:pin:deleting                digests being deleted, scored by when the right to delete them ends, ms
mirror:quota:limited:<registry>    exists while the registry is known to have a pull limit
mirror:quota:ledger:<account>      the pull limit as last told: limit, window, remaining, told_at, started
mirror:quota:reserved:<account>    manifest reads that are reserved and not answered yet, scored by expiry, ms
mirror:quota:cost:<digest>         how many manifests the image was found to have
                                   (account: <registry>:<credential>:<egress>, the latter two hashed)
mirror:slots:limit:<registry>:<action>    how many requests at once: limit, grown_at, halved_at, streak
mirror:slots:holders:<registry>:<action>  the processes that ask, scored by expiry, ms
mirror:slots:shares:<registry>:<action>   holder -> the requests it may have under way, or has
mirror:heartbeats:<kind>           process -> when it last said that it is alive, ms, and what it did
mirror:storage:trouble             since when S3 takes no writes, why, and when that is tried again
mirror:probe                       what /readyz writes to see whether Redis takes writes
mirror:breaker:<registry>          failures in a row and their last cause, until when nothing is asked, when it last
                                   answered, until when no HEAD of a manifest is sent
mirror:index:built                 exists once the index has been rebuilt from the bucket
mirror:index:rebuild               the rebuild under way: run, tags, repository, begun_at (ms)
mirror:index:changed               ``repository:tag`` of every change that was listed while the index was not built
mirror:index:repositories          repository names, lexical
mirror:index:images                ``repository:tag``, lexical
mirror:index:entries:<repository>  tag -> what is listed of the image, as JSON
mirror:index:blobs:<repository>    digest -> how many tags need it
mirror:index:bytes                 repository -> bytes of the distinct blobs its tags need
"""

from __future__ import annotations

from typing import Final

from mirror.oci.digest import Digest

_ROOT: Final = "mirror"

RQ_PREFIX: Final = f"{_ROOT}:rq"
CLOCK: Final = f"{_ROOT}:clock"

JOBS: Final = f"{_ROOT}:jobs"
JOBS_BY_STATE: Final = f"{_ROOT}:jobs:state:"
JOBS_BY_SOURCE: Final = f"{_ROOT}:jobs:source:"
JOBS_ENDED: Final = f"{_ROOT}:jobs:ended"
JOBS_WATCHED: Final = f"{_ROOT}:jobs:watched"
JOBS_LEFTOVER: Final = f"{_ROOT}:jobs:leftover"
JOB: Final = f"{_ROOT}:job:"
TASK: Final = f"{_ROOT}:task:"
TASKS_QUEUED: Final = f"{_ROOT}:tasks:queued"
TASKS_RUNNING: Final = f"{_ROOT}:tasks:running"
TASKS_PARKED: Final = f"{_ROOT}:tasks:parked"

PIN: Final = f"{_ROOT}:pin:"
PIN_HOLDER: Final = f"{_ROOT}:pin:holder:"
PINS_DELETING: Final = f"{_ROOT}:pin:deleting"

STORAGE_TROUBLE: Final = f"{_ROOT}:storage:trouble"
PROBE: Final = f"{_ROOT}:probe"

INDEX_BUILT: Final = f"{_ROOT}:index:built"
INDEX_REBUILD: Final = f"{_ROOT}:index:rebuild"
INDEX_CHANGED: Final = f"{_ROOT}:index:changed"
INDEX_REPOSITORIES: Final = f"{_ROOT}:index:repositories"
INDEX_IMAGES: Final = f"{_ROOT}:index:images"
INDEX_BYTES: Final = f"{_ROOT}:index:bytes"


def lease(name: str) -> str:
    return f"{_ROOT}:lease:{name}"


def periodic_lease(task: str) -> str:
    return lease(f"periodic:{task}")


def tag_lease(repository: str, tag: str) -> str:
    return lease(f"tag:{repository}:{tag}")


def blob_lease(digest: Digest) -> str:
    return lease(f"blob:{digest}")


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


def job_pending(job_id: str) -> str:
    return f"{JOB}{job_id}:pending"


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


def pin(digest: Digest) -> str:
    return f"{PIN}{digest}"


def pin_holder(holder: str) -> str:
    return f"{PIN_HOLDER}{holder}"


def quota_limited(registry: str) -> str:
    return f"{_ROOT}:quota:limited:{registry}"


def quota_ledger(registry: str, credential: str, egress: str) -> str:
    return f"{_ROOT}:quota:ledger:{registry}:{credential}:{egress}"


def quota_reserved(registry: str, credential: str, egress: str) -> str:
    return f"{_ROOT}:quota:reserved:{registry}:{credential}:{egress}"


def quota_cost(digest: str) -> str:
    return f"{_ROOT}:quota:cost:{digest}"


def slots_limit(registry: str, action: str) -> str:
    return f"{_ROOT}:slots:limit:{registry}:{action}"


def slots_holders(registry: str, action: str) -> str:
    return f"{_ROOT}:slots:holders:{registry}:{action}"


def slots_shares(registry: str, action: str) -> str:
    return f"{_ROOT}:slots:shares:{registry}:{action}"


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
    "jobs_watched": JOBS_WATCHED,
    "jobs_leftover": JOBS_LEFTOVER,
    "job": job("*"),
    "job_tasks": job_tasks("*"),
    "job_pending": job_pending("*"),
    "task": task("*"),
    "task_blobs": task_blobs("*"),
    "task_waits": task_waits("*"),
    "task_needs": task_needs("*"),
    "tasks_queued": TASKS_QUEUED,
    "tasks_running": TASKS_RUNNING,
    "tasks_parked": TASKS_PARKED,
    "pin": f"{PIN}*",
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
