"""Read the platforms of manifests for which no index names one: their configs do."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mirror.copying.cancellation import Cancellation
from mirror.copying.manifest_fetcher import parsing
from mirror.copying.memory import ManifestMemory
from mirror.copying.ports import Source
from mirror.errors import ManifestInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.image_config import may_have_platform, platform_of_image
from mirror.oci.manifest import Manifest
from mirror.oci.platform import Platform
from mirror.oci.reference import Reference
from mirror.oci.verification import verify
from mirror.storage.blobs import ManifestStore

MAX_CONFIGS: Final = 100
"""Configs that are read for one image. Usual indexes name the platform of each entry, so none is read."""
_READERS: Final = 8


class PlatformReader:
    """Learns platforms for one image. ``learned`` has None for what has no platform: an index, or an artifact.

    ``fetched`` are the configs that were read from the source.
    """

    def __init__(
        self,
        reference: Reference,
        source: Source,
        held: ManifestStore,
        cancellation: Cancellation,
        memory: ManifestMemory,
    ) -> None:
        self._reference = reference
        self._source = source
        self._held = held
        self._cancellation = cancellation
        self._memory = memory
        self._configs = 0
        self.fetched: list[Digest] = []
        self.learned: dict[Digest, Platform | None] = {}

    def learn(self, contents: Iterable[ManifestContent]) -> None:
        """Read the configs of those manifests whose descriptor names no platform, several at a time.

        A config that the bucket holds is read from there: the source has named its digest. Raises ManifestInvalid if
        there are too many, and what reading a blob raises.
        """
        unknown = [content for content in contents if self._is_unknown(content.descriptor)]
        wanted = [
            (content.descriptor.digest, content.parsed)
            for content in unknown
            if isinstance(content.parsed, Manifest) and may_have_platform(content.parsed)
        ]
        self._configs += len(wanted)
        if self._configs > MAX_CONFIGS:
            raise ManifestInvalid(str(self._reference), f"it has more than {MAX_CONFIGS} manifests without a platform")
        self.learned |= dict.fromkeys(content.descriptor.digest for content in unknown)
        if wanted:
            with ThreadPoolExecutor(_READERS, "configs", initializer=self._cancellation.bind_thread) as pool:
                self.learned |= dict(pool.map(lambda one: (one[0], self._platform(one[1])), wanted))

    def _is_unknown(self, entry: Descriptor) -> bool:
        named = entry.platform
        return entry.digest not in self.learned and not (named and named.os and named.architecture)

    def _platform(self, manifest: Manifest) -> Platform | None:
        self._cancellation.check()
        config = manifest.config
        self._memory.hold(config.size)
        body = config.inline_content() or self._held.read(config.digest)
        if body is None:
            body = read_small_blob(self._source, self._reference, config)
            self.fetched.append(config.digest)
        with parsing(len(body)):
            return platform_of_image(manifest, body)


def read_small_blob(source: Source, reference: Reference, blob: Descriptor) -> bytes:
    """Return a blob, whose size the caller bounds. Raises DigestMismatch, SizeInvalid or SourceError."""
    body = bytearray(blob.size)
    done = 0
    with source.open_blob(reference, blob) as stream:
        while done < blob.size and (count := stream.readinto(memoryview(body)[done:])):
            done += count
    verify(bytes(body[:done]), blob)
    return bytes(body)
