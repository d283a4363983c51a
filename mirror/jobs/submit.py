"""Turn a request into a queued job, without network access.

What can never work is refused here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import sleep

from mirror.copying.naming import TargetNamer, needs_digest
from mirror.errors import InvalidReference, JobTooLarge, ReleaseTooLarge, TargetRepeated
from mirror.http.address_guard import AddressGuard
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.oci.tag_pattern import TagPattern
from mirror.queue import TaskQueue
from mirror.records.ids import ulid_of
from mirror.records.job import USUAL, Job, JobOptions
from mirror.records.job_request import MOST_IMAGES, ImageRequest
from mirror.records.jobs import JobStore
from mirror.records.rules import ALL_TAGS, CANONICAL_TARGET, CopyOptions, TagRules
from mirror.records.run import RunOrigin
from mirror.records.spec import CopySpec, ExpandSpec, TaskSpec
from mirror.records.task import Task
from mirror.settings import Settings
from mirror.signatures.roots import TrustedRoots
from mirror.storage.releases import MOST_TAGS


class Submitter:
    """Stores jobs and wakes workers for them.

    A job is accepted once its records are in Redis.
    """

    def __init__(self, jobs: JobStore, queue: TaskQueue, settings: Settings) -> None:
        self._jobs = jobs
        self._queue = queue
        self._settings = settings
        self._trusted_roots = TrustedRoots(settings.trusted_roots)

    def submit(
        self, images: Sequence[ImageRequest], options: JobOptions = USUAL, run: RunOrigin | None = None
    ) -> tuple[Job, list[Task]]:
        """Queue a job for one to `MOST_IMAGES` images, repositories and wildcards.

        Return the job and its tasks as they were stored. The job of a *run* of a schedule is stored once, see
        `JobStore.submit`.

        Raises what `specs` raises, RedisUnavailable, and RunUnknown if the run has a job already or is gone. Then
        nothing is accepted.
        """
        specs = self.specs(images, options, run)
        job, tasks, entries = self._jobs.submit(specs, options, run)
        self._queue.enqueue(entries)
        return job, tasks

    def specs(
        self, images: Sequence[ImageRequest], options: JobOptions = USUAL, run: RunOrigin | None = None
    ) -> list[TaskSpec]:
        """Return what is to be done, one spec for each task. Nothing is stored.

        Raises InvalidInput for a malformed name, a reserved, repeated or too long target, an address that no worker may
        connect to, an unknown trusted root, or too many copies or tags of an atomic job. Raises ValueError for another
        number of images.
        """
        if not 1 <= len(images) <= MOST_IMAGES:
            raise ValueError(f"a job has 1 to {MOST_IMAGES} images, not {len(images)}")
        created_at = ulid_of(run.run).datetime if run else datetime.now(UTC)
        namer = TargetNamer(self._settings.public_host, created_at)
        specs = [spec for image in images for spec in self._specs(image, options, namer)]
        if len(specs) > MOST_IMAGES:
            raise JobTooLarge(len(specs), MOST_IMAGES)
        owners: dict[LocalImage, Reference] = {}
        for spec in specs:
            if isinstance(spec, CopySpec):
                if owner := owners.get(spec.target):
                    raise TargetRepeated(str(spec.target), (str(owner), str(spec.source)))
                owners[spec.target] = spec.source
        if options.atomic and len(owners) > MOST_TAGS:
            raise ReleaseTooLarge(len(owners), MOST_TAGS)
        return specs

    def _specs(self, image: ImageRequest, options: JobOptions, namer: TargetNamer) -> list[TaskSpec]:
        """Return what is to be done for one entry: an expansion, or a copy for each target."""
        sleep(0)  # ten thousand of them take a second, in which the greenlets of other requests run
        if image.options.signature is not None:
            self._trusted_roots.require(image.options.signature.trusted_root)
        is_dry_run, is_staged = options.kind == "plan", options.atomic and options.kind == "mirror"
        expansion = self._expansion(image)
        if expansion is not None:
            self._require_reachable(expansion.registry)
            for rule in expansion.targets:
                namer.require_possible(rule, expansion.source)
            return [replace(expansion, is_dry_run=is_dry_run, is_staged=is_staged)]
        reference = Reference.parse(image.source)
        self._require_reachable(reference.registry)
        targets = [namer.target(rule, reference) for rule in image.targets or (CANONICAL_TARGET,)]
        for target in targets:
            _require_tag(target, image.options)
        return [
            CopySpec(reference, target, image.options, is_dry_run=is_dry_run, is_staged=is_staged) for target in targets
        ]

    def _expansion(self, image: ImageRequest) -> ExpandSpec | None:
        """Return the expansion for an entry whose images are only known after its source was asked."""
        targets = image.targets or (CANONICAL_TARGET,)
        if image.tags is not None or image.source.endswith("/*"):
            source = RepositoryPattern.parse(image.source)
            return ExpandSpec(source, image.tags or ALL_TAGS, targets, image.options)
        if any(map(needs_digest, image.targets)):
            reference = Reference.parse(image.source)
            if reference.digest is None:
                source = RepositoryPattern(reference.registry, reference.repository)
                tags = TagRules(allow=(TagPattern("exact", str(reference.tag)),))
                return ExpandSpec(source, tags, targets, image.options)
        return None

    def _require_reachable(self, registry: str) -> None:
        """Refuse an address that no worker may connect to.

        Workers check the addresses that names lead to.
        """
        host = registry.partition(":")[0]
        if registry not in self._settings.registry_endpoints and is_address(host):
            AddressGuard(self._settings.allowed_networks).require(host, host)


def _require_tag(target: LocalImage, options: CopyOptions) -> None:
    """Refuse a target that is named by its digest, if the image gets another digest."""
    mode = options.platforms.mode
    if target.digest and mode in ("rewrite", "single"):
        hint = "Give the target a tag, as in 'team/redis:7'."
        raise InvalidReference(
            str(target), f"the platforms mode '{mode}' makes an image with another digest", hint=hint
        )


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
