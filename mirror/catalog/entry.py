"""What is listed of an image and of a repository."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from marshmallow import EXCLUDE, Schema, fields, post_load

from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.local_image import LocalImage
from mirror.oci.platform import Platform
from mirror.oci.reference import Reference, is_same_source
from mirror.storage.provenance import ImageProvenance, ImageSummary


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One tag. ``size`` is in bytes: manifests, configs and layers that the bucket holds for it, each once.

    ``source``, ``mirrored_at`` (ISO 8601) and ``job`` are None where the bucket has no provenance, as for a tag that
    another registry wrote.
    """

    repository: str
    tag: str
    digest: str
    media_type: str
    size: int
    platforms: tuple[str, ...] = ()
    source: str | None = None
    mirrored_at: str | None = None
    job: str | None = None

    def is_from(self, source: Reference) -> bool:
        """Whether a job has mirrored it from the registry and repository of *source*."""
        return Listed(Digest.parse(self.digest), self.source, self.job).is_from(str(source))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        loaded: Self = _SCHEMA.load(json.loads(text))
        return loaded


def summary_of(image: Image, platforms: Iterable[Platform]) -> ImageSummary:
    """What lists tell of *image*, wherever it is listed."""
    shown = tuple(str(platform) for platform in platforms)
    return ImageSummary(image.root.descriptor.media_type, shown, image.sizes)


def entry_of(target: LocalImage, digest: Digest, summary: ImageSummary, origin: ImageProvenance | None) -> ImageEntry:
    """What is listed under the tag *target*, which shows the image *digest*."""
    return ImageEntry(
        repository=target.repository,
        tag=str(target.tag),
        digest=str(digest),
        media_type=summary.media_type,
        size=sum(summary.sizes.values()),
        platforms=summary.platforms,
        source=(origin and origin.source) or None,
        mirrored_at=(origin and origin.mirrored_at) or None,
        job=(origin and origin.job) or None,
    )


@dataclass(frozen=True, slots=True)
class Listed:
    """What is listed of a tag, as far as its next job needs it; see `ImageEntry`."""

    digest: Digest
    source: str | None
    job: str | None

    @classmethod
    def from_json(cls, text: str) -> Self:
        entry = json.loads(text)
        return cls(Digest.parse(entry["digest"]), entry.get("source"), entry.get("job"))

    def is_from(self, source: str) -> bool:
        """Whether a job has mirrored it from the registry and repository that *source* names.

        Without a job the source is only a name: that of an image that was re-tagged here.
        """
        if not self.source or not self.job:
            return False
        return self.source == source or is_same_source(self.source, Reference.parse(source))


@dataclass(frozen=True, slots=True)
class RepositoryEntry:
    """A repository: how many tags it has, and the bytes of the distinct blobs that they need."""

    name: str
    tags: int
    bytes: int


class _EntrySchema(Schema):
    class Meta:
        unknown = EXCLUDE

    repository = fields.String(required=True)
    tag = fields.String(required=True)
    digest = fields.String(required=True)
    media_type = fields.String(required=True)
    size = fields.Integer(required=True)
    platforms = fields.List(fields.String(), load_default=list)
    source = fields.String(load_default=None, allow_none=True)
    mirrored_at = fields.String(load_default=None, allow_none=True)
    job = fields.String(load_default=None, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ImageEntry:
        return ImageEntry(**{**data, "platforms": tuple(data["platforms"])})


_SCHEMA: Final = _EntrySchema()
