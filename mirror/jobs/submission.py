"""From a request to a queued job, without touching the network: what can never work is refused here."""

from __future__ import annotations

import ipaddress

import structlog

from mirror.errors import InvalidReference, NameTooLong, RedisUnavailable
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.names import MAX_NAME_LENGTH
from mirror.oci.reference import Reference
from mirror.queue import TaskQueue
from mirror.records.job import Job
from mirror.records.store import JobStore
from mirror.records.task import Task
from mirror.registry.address_guard import AddressGuard
from mirror.settings import Settings

_LOG = structlog.get_logger(__name__)


class Submitter:
    """Stores jobs and wakes workers for them. A job is accepted once its records are in Redis, whatever comes after."""

    def __init__(self, store: JobStore, queue: TaskQueue, settings: Settings) -> None:
        self._store = store
        self._queue = queue
        self._settings = settings

    def submit(self, source: str, target: str | None = None) -> tuple[Job, list[Task]]:
        """Queue a job for one image; the job and its tasks as they were stored.

        Raises InvalidInput (malformed names, a reserved or too long target, an address no worker may connect to), or
        RedisUnavailable: then nothing was accepted.
        """
        reference = Reference.parse(source)
        image = resolve_target(reference, target, self._settings.public_host)
        self._require_reachable(reference.registry)
        job, tasks = self._store.submit([(str(reference), str(image))])
        for task in tasks:
            self._wake_a_worker(task)
        return job, tasks

    def _wake_a_worker(self, task: Task) -> None:
        """Put the task's entry; where that fails the job is accepted all the same, and the reconciler puts it."""
        try:
            self._queue.put(task.id, task.fence)
        except RedisUnavailable:
            _LOG.warning("job accepted without a queue entry; the scheduler will put one", task_id=task.id)

    def _require_reachable(self, registry: str) -> None:
        """Refuse an address that no worker may connect to. A name is judged by the worker, when it is an address."""
        host = registry.partition(":")[0]
        if registry not in self._settings.registry_endpoints and is_address(host):
            AddressGuard(self._settings.allowed_networks).require(host, host)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def resolve_target(source: Reference, target: str | None, public_host: str) -> LocalImage:
    """Where the image will stand: the default for its source, or *target*, which takes the source's tag if it has none.

    A target without a tag for a source without one is kept by its digest.
    """
    image = LocalImage.default_for(source) if target is None else LocalImage.parse(target)
    if image.digest is not None and target is not None:
        raise InvalidReference(str(target), "a target is named by a tag, never by a digest")
    if target is not None and image.tag is None:
        image = LocalImage(image.repository, source.tag, None if source.tag else source.digest)
    image.require_source(registry_component(source.registry), str(source))
    name = f"{public_host}/{image.repository}"
    if len(name) > MAX_NAME_LENGTH:
        raise NameTooLong(name, MAX_NAME_LENGTH)
    return image
