"""Referrers for tests: a subject, and artifacts about it whose manifests a repository of the mirror holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from mirror.catalog.referrers import ReferrerLists
from mirror.catalog.tag_change import TagChange, TagUpdate
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import parse_manifest
from mirror.oci.referrer import Referrer, fallback_tag
from mirror.oci.verification import verify
from mirror.storage.provenance import ImageProvenance
from mirror.wiring import Core
from tests.support import images
from tests.support.images import TestImage

REPOSITORY: Final = "team/app"
KIND: Final = "application/vnd.example.signature"
"""The artifact type of every referrer."""


@dataclass
class ReferrerSet:
    """A subject, and its referrers, which are held and readable by digest, but not listed."""

    core: Core
    subject: TestImage
    artifacts: list[TestImage] = field(default_factory=list)

    @classmethod
    def of(cls, core: Core, count: int, seed: str = "signed") -> Self:
        made = cls(core, images.image(images.layer(seed)))
        for number in range(count):
            artifact = images.artifact(KIND, f"{seed} {number}".encode(), subject=made.subject)
            hold(core, artifact)
            made.artifacts.append(artifact)
        return made

    @property
    def target(self) -> LocalImage:
        """The fallback tag."""
        return LocalImage(REPOSITORY, fallback_tag(self.subject.digest))

    @property
    def tag(self) -> tuple[str, str]:
        """Repository and tag of the list."""
        return REPOSITORY, str(self.target.tag)

    def referrers(self, *numbers: int) -> list[Referrer]:
        """Return the entries of some artifacts, or of all."""
        wanted = [self.artifacts[number] for number in numbers or range(len(self.artifacts))]
        return [entry(artifact) for artifact in wanted]

    def add(self, *numbers: int, by: str = "job_1", lists: ReferrerLists | None = None) -> int:
        """List some artifacts, or all."""
        lists = lists or self.core.referrer_lists
        return lists.add(REPOSITORY, self.subject.digest, self.referrers(*numbers), by=by)

    def listed(self) -> list[int | Digest]:
        """Return what is listed in its order: the number of each artifact, and the digest of anything else."""
        numbers = {artifact.digest: number for number, artifact in enumerate(self.artifacts)}
        found = self.core.referrer_lists.listed(REPOSITORY, self.subject.digest)
        return [numbers.get(one.digest, one.digest) for one in found]


def entry(artifact: TestImage, artifact_type: str = KIND) -> Referrer:
    """Return the entry of a list for *artifact*."""
    return Referrer(Descriptor(artifact.media_type, artifact.digest, len(artifact.body)), artifact_type)


def hold(core: Core, artifact: TestImage, repository: str = REPOSITORY) -> None:
    """Make *artifact* readable by its digest, as the copy of a referrer does."""
    contents = [*artifact.all_blobs().values(), *(manifest.body for manifest in artifact.all_manifests())]
    for content in contents:
        core.blobs.put(verify(content, Descriptor("", Digest.of(content), len(content))), content)
    for digest in artifact.all_blobs():
        core.links.link_layer(repository, digest)
    for manifest in artifact.all_manifests():
        core.links.link_revision(repository, manifest.digest)


def publish(core: Core, image: TestImage, target: LocalImage) -> None:
    """Publish *image*, as the copy of a tag does."""
    [change] = core.changes.take_numbers([(target, "copy")])
    publish_at(core, image, change)


def publish_at(core: Core, image: TestImage, change: TagChange) -> TagUpdate:
    """Publish *image* as the numbered *change*."""
    hold(core, image, change.target.repository)
    contents = []
    for manifest in image.all_manifests():
        parsed = parse_manifest(manifest.body, manifest.media_type, what=str(manifest.digest))
        descriptor = Descriptor(manifest.media_type, manifest.digest, len(manifest.body))
        contents.append(ManifestContent(descriptor, manifest.body, parsed))
    origin = ImageProvenance("docker.io/library/app:1", image.digest, "2026-11-23T21:25:00Z", "job_0")
    return core.publisher.publish(change, Image(tuple(contents)), origin)
