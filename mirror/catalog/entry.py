"""Entries of the index: what lists show of a tag and of a repository."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from marshmallow import EXCLUDE, Schema, fields, post_load

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference, is_same_source
from mirror.records.spec import CopySpec
from mirror.storage.provenance import ImageProvenance, ImageSummary

_MOST_SOURCES: Final = 8


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One tag. ``size`` is in bytes: manifests, configs and layers that the bucket holds for it, each once.

    ``source``, ``mirrored_at`` (ISO 8601) and ``job`` are None where the bucket has no provenance, as for a tag that
    another registry wrote. ``also_from`` are other sources that are known to have served this image, each as
    ``registry/repository``. So their jobs need not look for that in the bucket again.
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
    also_from: tuple[str, ...] = ()

    @classmethod
    def of(cls, target: LocalImage, digest: Digest, summary: ImageSummary, origin: ImageProvenance | None) -> Self:
        """Make the entry of the tag *target*, which shows the image *digest*."""
        return cls(
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

    @property
    def indexed(self) -> IndexedTag:
        """The part of the entry that decides whether a task has anything to do."""
        return IndexedTag(Digest.parse(self.digest), self.source, self.job, self.also_from)

    def found_at(self, source: Reference) -> Self:
        """Return the entry with *source* added to those that served the image. Of many, the oldest are dropped."""
        return replace(self, also_from=(*self.also_from, source.name)[-_MOST_SOURCES:])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        loaded: Self = _SCHEMA.load(json.loads(text))
        return loaded


@dataclass(frozen=True, slots=True)
class IndexedTag:
    """The part of a tag's `ImageEntry` that decides whether its next job has anything to do."""

    digest: Digest
    source: str | None
    job: str | None
    also_from: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Self:
        entry = json.loads(text)
        also_from = tuple(entry.get("also_from") or ())
        return cls(Digest.parse(entry["digest"]), entry.get("source"), entry.get("job"), also_from)

    def is_from(self, source: Reference) -> bool:
        """Whether the registry and repository of *source* are known to have served the image.

        An entry without a job is of an image that was retagged here. Then its own source is only a name.
        """
        if self.source and self.job and (self.source == str(source) or is_same_source(self.source, source)):
            return True
        return source.name in self.also_from


def is_current(spec: CopySpec, found: Digest, held: IndexedTag | None) -> bool:
    """Say whether a target already is what its task asks for, so that nothing is to be done. No I/O.

    *found* is the digest that the source has, and *held* what the index lists under the target. The source must be
    known to have served the image, because a source can name any digest in the response to a HEAD.
    """
    return held is not None and held.digest == found and held.is_from(spec.source)


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
    also_from = fields.List(fields.String(), load_default=list)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ImageEntry:
        return ImageEntry(**{**data, "platforms": tuple(data["platforms"]), "also_from": tuple(data["also_from"])})


_SCHEMA: Final = _EntrySchema()
