"""Turn a request into a queued job, without network access.

What can never work is refused here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from time import sleep
from typing import Final

from mirror.errors import InvalidReference, NameTooLong, TargetRepeated
from mirror.http.address_guard import AddressGuard
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.reference import MAX_NAME_LENGTH, Reference
from mirror.queue import TaskQueue
from mirror.records.job import Job
from mirror.records.jobs import JobStore
from mirror.records.spec import CopySpec
from mirror.records.task import Task
from mirror.settings import Settings

MOST_IMAGES: Final = 10_000
"""Images of one job. Only a window of them is queued at once, so that other jobs are served meanwhile."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image of a request: what to mirror, and the name to keep it under, if any."""

    source: str
    target: str | None = None


class Submitter:
    """Stores jobs and wakes workers for them.

    A job is accepted once its records are in Redis.
    """

    def __init__(self, jobs: JobStore, queue: TaskQueue, settings: Settings) -> None:
        self._jobs = jobs
        self._queue = queue
        self._settings = settings

    def submit(self, images: Sequence[ImageRequest]) -> tuple[Job, list[Task]]:
        """Queue a job for one to `MOST_IMAGES` images.

        Return the job and its tasks as they were stored.

        Raises InvalidInput for a malformed name, a reserved, repeated or too long target, or an address that no worker
        may connect to. Raises RedisUnavailable, and ValueError for another number of images. Then nothing is accepted.
        """
        if not 1 <= len(images) <= MOST_IMAGES:
            raise ValueError(f"a job has 1 to {MOST_IMAGES} images, not {len(images)}")
        specs = [self._resolved(image) for image in images]
        seen: set[LocalImage] = set()
        for spec in specs:
            if spec.target in seen:
                raise TargetRepeated(str(spec.target))
            seen.add(spec.target)
        job, tasks, entries = self._jobs.submit(specs)
        self._queue.enqueue(entries)
        return job, tasks

    def _resolved(self, image: ImageRequest) -> CopySpec:
        sleep(0)  # ten thousand of them take a second, in which the greenlets of other requests run
        reference = Reference.parse(image.source)
        target = resolve_target(reference, image.target, self._settings.public_host)
        self._require_reachable(reference.registry)
        return CopySpec(reference, target)

    def _require_reachable(self, registry: str) -> None:
        """Refuse an address that no worker may connect to.

        Workers check the addresses that names lead to.
        """
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
    """Return the name that the image gets: *target*, or the default for its source.

    A target without a tag takes the source's tag. If that has none either, the image is kept by its digest.
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
