"""Where images and blobs came from, kept beside them in the bucket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from mirror.errors import InvalidDigest
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.bucket import Bucket

_LONGEST_RECORD: Final = 16 * 2**10


@dataclass(frozen=True, slots=True)
class ImageProvenance:
    """One image as it was last mirrored: ``source`` is the canonical reference, ``digest`` what it was upstream,
    ``mirrored_at`` RFC 3339 in UTC, ``job`` the job's id."""

    source: str
    digest: Digest
    mirrored_at: str
    job: str

    def to_json(self) -> bytes:
        return json.dumps({**asdict(self), "digest": str(self.digest)}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Self | None:
        """None for anything but what `to_json` writes (more fields, from a later version, are passed over)."""
        try:
            record = json.loads(content)
        except (ValueError, RecursionError):
            return None
        return cls._from_record(record) if isinstance(record, dict) else None

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> Self | None:
        source, digest, mirrored_at, job = (record.get(name) for name in ("source", "digest", "mirrored_at", "job"))
        if not (isinstance(source, str) and isinstance(digest, str)):
            return None
        if not (isinstance(mirrored_at, str) and isinstance(job, str)):
            return None
        try:
            return cls(source, Digest.parse(digest), mirrored_at, job)
        except InvalidDigest:
            return None


class ProvenanceStore:
    """Written before an image is published; nothing needs it to serve the image."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def record_image(self, repository: str, digest: Digest, provenance: ImageProvenance) -> None:
        """Say where the manifest *digest* in *repository* came from; the last one counts."""
        self._bucket.put(layout.image_provenance_key(repository, digest), provenance.to_json())

    def image(self, repository: str, digest: Digest) -> ImageProvenance | None:
        """None if it is not known. A damaged record counts as unknown: it must not keep an image from being listed.

        Raises StorageDamaged only if the object is too large to be one.
        """
        content = self._bucket.read(layout.image_provenance_key(repository, digest), _LONGEST_RECORD)
        return None if content is None else ImageProvenance.from_json(content)

    def record_blob_source(self, digest: Digest, registry: str, repository: str) -> None:
        """Say that the blob was read from *repository* at *registry*, and verified."""
        self._bucket.put(layout.blob_provenance_key(digest, registry, repository), b"")

    def blob_sources(self, digest: Digest) -> set[tuple[str, str]]:
        """Every (registry, repository) the blob was verified from."""
        keys = self._bucket.keys(layout.blob_provenance_prefix(digest))
        return {found for key in keys if (found := layout.parse_blob_provenance(digest, key))}

    def has_blob_source(self, digest: Digest, registry: str, repository: str) -> bool:
        """Whether the blob was verified from there: one HEAD, however many sources it has."""
        return self._bucket.size(layout.blob_provenance_key(digest, registry, repository)) is not None
