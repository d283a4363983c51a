"""A registry in memory, and what the real resolver chooses of an image in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, cast

from mirror.copying.cancellation import Cancellation
from mirror.copying.memory import ManifestMemory, MemoryBudget
from mirror.copying.ports import Source
from mirror.copying.resolver import Resolution, Resolver
from mirror.errors import ManifestUnknown
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.platform import Platform, PlatformPattern
from mirror.oci.reference import Reference
from mirror.records.rules import PlatformMode, PlatformRules
from mirror.storage.blobs import ManifestStore
from tests.support import images
from tests.support.images import TestImage

APP = Reference.parse("registry.example/team/app:1")


def only(*platforms: str, mode: PlatformMode = "sparse") -> PlatformRules:
    return PlatformRules(tuple(map(PlatformPattern.parse, platforms)), mode)


@dataclass
class _Answer:
    body: bytes
    media_type: str | None
    digest: Digest


class _Stream:
    """A blob in memory, as `BlobStream`."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def readinto(self, buffer: memoryview) -> int:
        count = min(3, len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class MemoryRegistry:
    """Serves one image under `APP`, and notes the manifests and configs that were asked for. No pull limit."""

    image: TestImage
    manifests: list[Digest] = field(default_factory=list)
    configs: list[Digest] = field(default_factory=list)

    @contextmanager
    def reading(self, _: Reference) -> Iterator[MemoryRegistry]:
        yield self

    def is_limited(self) -> bool:
        return False

    def expect(self, count: int) -> None:
        assert count >= 0

    def get(self, reference: Reference, *, expect: Descriptor | None = None) -> _Answer:
        digest = reference.digest or self.image.digest
        self.manifests.append(digest)
        for manifest in self.image.all_manifests():
            if manifest.digest == digest:
                return _Answer(manifest.body, manifest.media_type, digest)
        raise ManifestUnknown(str(reference))

    def open_blob(self, _: Reference, blob: Descriptor) -> _Stream:
        self.configs.append(blob.digest)
        return _Stream(self.image.all_blobs()[blob.digest])


class _EmptyStore:
    def read(self, _: Digest) -> None:
        return None


@contextmanager
def resolution(registry: MemoryRegistry) -> Iterator[Resolution]:
    cancellation = Cancellation()
    resolver = Resolver(cast("Source", registry), cast("ManifestStore", _EmptyStore()))
    memory = ManifestMemory(MemoryBudget(64 * 2**20), str(APP), cancellation)
    with memory, resolver.resolving(APP, None, cancellation, memory) as found:
        yield found


def resolve(image: TestImage, rules: PlatformRules) -> tuple[Image, MemoryRegistry]:
    registry = MemoryRegistry(image)
    with resolution(registry) as found:
        assert found.skip_reason(rules) is None
        return found.image(rules), registry


def digests(image: Image) -> list[Digest]:
    return [content.descriptor.digest for content in image.manifests]


def child(image: TestImage, number: int) -> TestImage:
    return list(image.children.values())[number]


AMD64, ARM64, ARM = (
    images.image(images.layer(name), platform=name) for name in ("linux/amd64", "linux/arm64", "linux/arm/v7")
)
FLAT = images.index(("linux/amd64", AMD64), ("linux/arm64", ARM64), ("linux/arm/v7", ARM))
UNNAMED = images.index((None, AMD64), (None, ARM64), ("linux/arm/v7", ARM))
CHART = images.artifact("application/vnd.cncf.helm.config.v1+json", b"a chart")


def index_entry(number: int, platform: Platform | None, attests: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"mediaType": media_types.OCI_MANIFEST, "digest": digest_of(number), "size": number + 1}
    if platform:
        made["platform"] = {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}
    if attests:
        made["platform"] = {"os": "unknown", "architecture": "unknown"}
        kinds = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": attests}
        made["annotations"] = kinds
    return made


def digest_of(number: int) -> str:
    return str(Digest.of(str(number).encode()))
