"""Entries of the index: what lists show of a tag and of a repository."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from marshmallow import EXCLUDE, Schema, fields, post_load

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.platform import Platform
from mirror.oci.reference import Reference, is_same_source
from mirror.oci.referrer import ReferrersSeen
from mirror.records.rules import CopyOptions, ForeignLayers, PlatformRules
from mirror.records.spec import CopySpec
from mirror.signatures.policy import SignatureVerdict
from mirror.storage.provenance import ImageProvenance, ImageSummary, chosen_platforms, platforms_mode

_MOST_SOURCES: Final = 8


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One tag. ``size`` is in bytes: manifests, configs and layers that the bucket holds for it, each once.

    ``source``, ``mirrored_at`` (ISO 8601) and ``job`` are None where the bucket has no provenance, as for a tag that
    another registry wrote. ``also_from`` are other sources that are known to have served this image, each as
    ``registry/repository``. So their jobs need not look for that in the bucket again.

    ``platform_rules`` chose its platforms, as `PlatformRules.key` writes them. ``source_digest`` is what the source
    had, if that is not ``digest``. ``referrers`` are those that the source had. ``signature`` is the one
    that a policy asked for. ``foreign_layers`` is as in `ImageProvenance`.
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
    source_digest: str | None = None
    platform_rules: str | None = None
    referrers: ReferrersSeen | None = None
    signature: SignatureVerdict | None = None
    foreign_layers: str | None = None

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
            source_digest=str(origin.digest) if origin and origin.digest != digest else None,
            platform_rules=origin.platforms if origin else None,
            referrers=origin.referrers if origin else None,
            signature=origin.signature if origin else None,
            foreign_layers=origin.foreign_layers if origin else None,
        )

    @property
    def indexed(self) -> IndexedTag:
        """The part of the entry that decides whether a task has anything to do."""
        return IndexedTag(
            Digest.parse(self.digest),
            self.source,
            self.job,
            self.also_from,
            Digest.parse(self.source_digest) if self.source_digest else None,
            self.platform_rules,
            self.platforms,
            self.referrers,
            self.signature,
            self.foreign_layers,
        )

    def found_at(self, source: Reference) -> Self:
        """Return the entry with *source* added to those that served the image. Of many, the oldest are dropped."""
        return replace(self, also_from=(*self.also_from, source.name)[-_MOST_SOURCES:])

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> Self:
        loaded: Self = _SCHEMA.load(json.loads(text))
        return loaded


@dataclass(frozen=True, slots=True)
class IndexedTag:
    """The part of a tag's `ImageEntry` that decides whether its next job has anything to do.

    ``digest`` is what the tag shows. ``source_digest`` is what its source had, if that is another one: after a rewrite,
    and where one platform was taken from an index.
    """

    digest: Digest
    source: str | None
    job: str | None
    also_from: tuple[str, ...] = ()
    source_digest: Digest | None = None
    platform_rules: str | None = None
    platforms: tuple[str, ...] = ()
    referrers: ReferrersSeen | None = None
    signature: SignatureVerdict | None = None
    foreign_layers: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Self:
        entry = json.loads(text)
        return cls(
            Digest.parse(entry["digest"]),
            entry.get("source"),
            entry.get("job"),
            tuple(entry.get("also_from") or ()),
            Digest.parse(entry["source_digest"]) if entry.get("source_digest") else None,
            entry.get("platform_rules"),
            tuple(entry.get("platforms") or ()),
            ReferrersSeen.from_fields(entry.get("referrers")),
            SignatureVerdict.from_fields(entry.get("signature")),
            entry.get("foreign_layers"),
        )

    def is_from(self, source: Reference) -> bool:
        """Whether the registry and repository of *source* are known to have served the image.

        An entry without a job is of an image that was retagged here. Then its own source is only a name.
        """
        if self.source and self.job and (self.source == str(source) or is_same_source(self.source, source)):
            return True
        return source.name in self.also_from

    @property
    def made_from(self) -> Digest:
        """The digest that its source had when it was mirrored, by whatever rules for platforms."""
        return self.source_digest or self.digest

    @property
    def is_rewritten(self) -> bool:
        """Whether the tag shows an index that the mirror has made for its platforms."""
        return self.source_digest is not None and platforms_mode(self.platform_rules) == "rewrite"

    def satisfies(self, options: CopyOptions) -> bool:
        """Whether the tag shows what *options* would make of the same image again, or more of the same image."""
        return self._has_foreign_layers(options.foreign_layers) and self._has_platforms(options.platforms)

    def _has_foreign_layers(self, wanted: ForeignLayers) -> bool:
        """Whether no layer is missing that *wanted* may bring. For what the source lacked, it is not asked again."""
        if wanted == "include":
            return self.foreign_layers == "all"
        return wanted == "leave-out" or self.foreign_layers != "leave-out"

    def _has_platforms(self, rules: PlatformRules) -> bool:
        if self.platform_rules == rules.key:
            return True
        if self.source_digest or rules.mode not in ("all", "sparse"):
            return False
        mode = platforms_mode(self.platform_rules)
        if mode != "all":
            wanted = {str(pattern) for pattern in rules.only}
            if mode != "sparse" or rules.mode != "sparse" or not wanted <= chosen_platforms(self.platform_rules):
                return False
        return not rules.only or any(_matches(rules, platform) for platform in self.platforms)


def is_current(spec: CopySpec, found: Digest, held: IndexedTag | None) -> bool:
    """Say whether a target already is what its task asks for, so that nothing is to be done. No I/O.

    *found* is the digest that the source has, and *held* what the index lists under the target. The source must be
    known to have served the image, because a source can name any digest in the response to a HEAD. The tag may show
    another digest than the source, if that is what the rules for platforms made of it. A tag that lacks foreign layers
    is not current for an option that may bring them.
    """
    if held is None or held.made_from != found or not held.is_from(spec.source):
        return False
    return held.satisfies(spec.options)


def _matches(rules: PlatformRules, listed: str) -> bool:
    try:
        platform = Platform.parse(listed)
    except ValueError:
        return False
    return any(pattern.matches(platform) for pattern in rules.only)


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
    source_digest = fields.String(load_default=None, allow_none=True)
    platform_rules = fields.String(load_default=None, allow_none=True)
    referrers = fields.Dict(load_default=None, allow_none=True)
    signature = fields.Dict(load_default=None, allow_none=True)
    foreign_layers = fields.String(load_default=None, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ImageEntry:
        data |= {name: tuple(data[name]) for name in ("platforms", "also_from")}
        data["referrers"] = ReferrersSeen.from_fields(data["referrers"])
        data["signature"] = SignatureVerdict.from_fields(data["signature"])
        return ImageEntry(**data)


_SCHEMA: Final = _EntrySchema()
