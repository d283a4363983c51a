"""Retag: point a tag at an image that the mirror holds already. No bytes move."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from mirror.catalog.publish import Publisher
from mirror.catalog.reader import CatalogReader
from mirror.catalog.tag_change import Precondition, TagChanges, TagUpdate
from mirror.errors import ImageNotHeld, InvalidReference, NameTooLong
from mirror.locks.pins import Pins
from mirror.oci.image import Image
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import MAX_NAME_LENGTH
from mirror.storage.blobs import BlobStore
from mirror.storage.provenance import ImageProvenance, ProvenanceStore

_READERS: Final = 16


class Retagger:
    """Points tags at held images. Safe to share between threads. *public_host* is the mirror's own host name."""

    def __init__(
        self,
        public_host: str,
        changes: TagChanges,
        publisher: Publisher,
        reader: CatalogReader,
        *,
        blobs: BlobStore,
        provenance: ProvenanceStore,
        pins: Pins,
    ) -> None:
        self._public_host = public_host
        self._changes = changes
        self._publisher = publisher
        self._reader = reader
        self._blobs = blobs
        self._provenance = provenance
        self._pins = pins

    def retag(self, target: LocalImage, source: LocalImage, *, allowed: Precondition) -> TagUpdate:
        """Point the tag *target* at what *source* holds.

        The image is pinned first, and only then looked for in the bucket. So the collector cannot delete it meanwhile,
        even if *source* is deleted. Raises InvalidInput for names that do not go together, ImageNotHeld,
        PreconditionFailed, TagBusy or BlobBeingDeleted.
        """
        self._require_names(target, source)
        [change] = self._changes.take_numbers([(target, "retag")])
        image = self._reader.image(source)
        with self._pinned_and_held(source, image):
            found = self._provenance.image(source.repository, image.digest)
            origin = found or ImageProvenance(source=str(source), digest=image.digest, mirrored_at="", job="")
            return self._publisher.publish(change, image, origin, allowed=allowed)

    def _require_names(self, target: LocalImage, source: LocalImage) -> None:
        if target.tag is None:
            hint = "Name a tag: 'team/redis:7'."
            raise InvalidReference(str(target), "only a tag can be pointed at an image", hint=hint)
        target.require_source(source.registry_component or "", str(source))
        name = f"{self._public_host}/{target.repository}"
        if len(name) > MAX_NAME_LENGTH:
            raise NameTooLong(name, MAX_NAME_LENGTH)

    @contextmanager
    def _pinned_and_held(self, source: LocalImage, image: Image) -> Iterator[None]:
        """Pin all that the image needs for the block. Raises ImageNotHeld if not all of it is in the bucket."""
        holder = f"retag-{secrets.token_hex(8)}"
        sizes = image.sizes
        try:
            self._pins.pin(holder, list(sizes))
            with ThreadPoolExecutor(_READERS, thread_name_prefix="heads") as pool:
                held = list(pool.map(self._blobs.held, sizes))
            if held != list(sizes.values()):
                raise ImageNotHeld(str(source))
            yield
        finally:
            self._pins.release(holder)
