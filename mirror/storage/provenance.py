"""Where images and blobs came from, written next to them in the bucket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from mirror.errors import InvalidDigest
from mirror.oci.descriptor import MAX_SIZE
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference, is_same_source
from mirror.oci.referrer import ReferrersSeen
from mirror.signatures.policy import SignatureVerdict
from mirror.storage import layout
from mirror.storage.bucket import Bucket

MOST_SUMMARISED: Final = 2_000
_FOREIGN_LAYERS: Final = ("leave-out", None, "when-held", "all")
"""Which foreign layers an image has, from the fewest to all. None is that of records before there was a choice."""
_LONGEST_RECORD: Final = 4 * 2**20
"""Bytes: an image of 10 000 layers, all of which were held, has a record of 1.4 MB."""


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """What lists show of an image. *sizes* are the bytes of all that it needs in the bucket, each digest once."""

    media_type: str
    platforms: tuple[str, ...]
    sizes: Mapping[Digest, int]

    def fields(self) -> dict[str, Any]:
        sizes = {str(digest): size for digest, size in self.sizes.items()}
        return {"media_type": self.media_type, "platforms": list(self.platforms), "sizes": sizes}

    @classmethod
    def from_fields(cls, fields: object) -> Self | None:
        """Parse what `fields` returned. None for anything else."""
        match fields:
            case {"media_type": str(media_type), "platforms": list(platforms), "sizes": dict(sizes)}:
                if not all(isinstance(platform, str) for platform in platforms):
                    return None
                if not all(type(size) is int and 0 <= size <= MAX_SIZE for size in sizes.values()):
                    return None
            case _:
                return None
        try:
            return cls(media_type, tuple(platforms), {Digest.parse(text): size for text, size in sizes.items()})
        except InvalidDigest:
            return None


def platforms_mode(rules: str | None) -> str:
    """Return the mode of rules for platforms: ``all``, ``sparse``, ``rewrite`` or ``single``."""
    return rules.partition(":")[0] if rules else "all"


def chosen_platforms(rules: str | None) -> frozenset[str]:
    """Return the patterns of rules for platforms."""
    return frozenset(rules.partition(":")[2].split(",")) if rules else frozenset()


@dataclass(frozen=True, slots=True)
class ImageProvenance:
    """How one image was last mirrored.

    ``source`` is the canonical reference, ``digest`` what it was upstream, ``mirrored_at`` RFC 3339 in UTC, and ``job``
    the job's id. The source served the bytes of the manifest. ``held`` are the blobs and children that the bucket held
    already, so that the source was not asked for them. With ``summary`` a rebuild of the index need not read the
    manifests. It is None in older records, and for an image of more than `MOST_SUMMARISED` blobs. ``platforms`` are the
    rules by which platforms were chosen, as ``sparse:linux/amd64,linux/arm64``. With them the tag may show another
    digest than ``digest``. None in older records, and without such rules. ``referrers`` are those that the source then
    had, and ``signature`` is the one that the job has verified. Both are None if the job did not ask for that.
    ``foreign_layers`` is ``all`` if none was left out, or else the option by which some were: ``when-held`` or
    ``leave-out``. None in older records.
    """

    source: str
    digest: Digest
    mirrored_at: str
    job: str
    held: tuple[Digest, ...] = ()
    summary: ImageSummary | None = None
    platforms: str | None = None
    referrers: ReferrersSeen | None = None
    signature: SignatureVerdict | None = None
    foreign_layers: str | None = None

    def joined(self, before: Self | None) -> Self:
        """Return the record of a sparse index, of which its repository may hold children already, by *before*."""
        if before is None or before.summary is None or self.summary is None or before.digest != self.digest:
            return self
        sizes = {**before.summary.sizes, **self.summary.sizes}
        foreign_layers = self._foreign_layers_with(before)
        match platforms_mode(before.platforms):
            case "all":
                summary = replace(before.summary, sizes=sizes)
                return replace(self, summary=summary, platforms=before.platforms, foreign_layers=foreign_layers)
            case "sparse":
                rules = (
                    f"sparse:{','.join(sorted(chosen_platforms(self.platforms) | chosen_platforms(before.platforms)))}"
                )
                names = tuple(sorted({*self.summary.platforms, *before.summary.platforms}))
                summary = replace(self.summary, platforms=names, sizes=sizes)
                return replace(self, summary=summary, platforms=rules, foreign_layers=foreign_layers)
            case _:
                return self

    def _foreign_layers_with(self, before: Self) -> str | None:
        """Return which foreign layers the children of both have. Those that only *before* has were not copied now."""
        if before.platforms and chosen_platforms(before.platforms) <= chosen_platforms(self.platforms):
            return self.foreign_layers
        return min(self.foreign_layers, before.foreign_layers, key=_FOREIGN_LAYERS.index)

    def to_json(self) -> bytes:
        record: dict[str, Any] = {"source": self.source, "digest": str(self.digest), "mirrored_at": self.mirrored_at}
        record |= {"job": self.job, "held": [str(digest) for digest in self.held]}
        if self.platforms:
            record["platforms"] = self.platforms
        if self.referrers:
            record["referrers"] = self.referrers.fields()
        if self.signature:
            record["signature"] = self.signature.fields()
        if self.foreign_layers:
            record["foreign_layers"] = self.foreign_layers
        if self.summary and len(self.summary.sizes) <= MOST_SUMMARISED:
            record["summary"] = self.summary.fields()
        return json.dumps(record, sort_keys=True).encode()

    def is_from(self, reference: Reference) -> bool:
        """Whether a job has read the manifest from the registry and repository of *reference*."""
        return bool(self.job) and is_same_source(self.source, reference)

    @classmethod
    def from_json(cls, content: bytes) -> Self | None:
        """Parse what `to_json` wrote. None for anything else. Unknown fields, from a later version, are ignored."""
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
        held, platforms = record.get("held") or [], record.get("platforms")
        if not (isinstance(held, list) and all(isinstance(text, str) for text in held)):
            return None
        if not (platforms is None or isinstance(platforms, str)):
            return None
        foreign_layers = record.get("foreign_layers")
        if foreign_layers not in _FOREIGN_LAYERS:
            foreign_layers = None
        try:
            found = tuple(Digest.parse(text) for text in held)
            summary = ImageSummary.from_fields(record.get("summary"))
            origin = cls(source, Digest.parse(digest), mirrored_at, job, found, summary, platforms)
        except InvalidDigest:
            return None
        referrers = ReferrersSeen.from_fields(record.get("referrers"))
        signature = SignatureVerdict.from_fields(record.get("signature"))
        return replace(origin, referrers=referrers, signature=signature, foreign_layers=foreign_layers)


class ProvenanceStore:
    """Records of where images and blobs came from. Written before an image is published, and not needed to serve it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def record_image(self, repository: str, digest: Digest, provenance: ImageProvenance, *, timeout: float) -> None:
        """Record where the manifest *digest* in *repository* came from. Replaces the record before.

        Without retries, as the tag's own links: the caller holds a lease, and must not write after it.
        """
        key = layout.image_provenance_key(repository, digest)
        self._bucket.put(key, provenance.to_json(), timeout=timeout, retries=False)

    def image(self, repository: str, digest: Digest, *, timeout: float | None = None) -> ImageProvenance | None:
        """Return the record of an image, None if there is none. With *timeout* it is tried once.

        A damaged record counts as none, since it must not keep an image from being listed. Raises StorageDamaged only
        if the object is too large to be a record.
        """
        key = layout.image_provenance_key(repository, digest)
        content = self._bucket.read(key, _LONGEST_RECORD, timeout=timeout, retries=timeout is None)
        return None if content is None else ImageProvenance.from_json(content)

    def made_from(self, repository: str, digest: Digest, *, timeout: float | None = None) -> Digest:
        """Return the digest that the source had of an image. The mirror may have made another one for its platforms."""
        found = self.image(repository, digest, timeout=timeout)
        return found.digest if found else digest

    def has_served(self, reference: Reference, digest: Digest, *, into: str | None = None) -> bool:
        """Whether the registry and repository of *reference* served the manifest *digest* before.

        *into* is a repository of the mirror, whose record of the image is read first.
        """
        found = self.image(into, digest) if into is not None else None
        if found and found.digest == digest and found.is_from(reference):
            return True
        return self.has_blob_source(digest, reference.registry, reference.repository)

    def record_blob_source(self, digest: Digest, registry: str, repository: str) -> None:
        """Record that the blob or manifest was read from *repository* at *registry*, and verified."""
        self._bucket.put(layout.blob_provenance_key(digest, registry, repository), b"")

    def has_blob_source(self, digest: Digest, registry: str, repository: str) -> bool:
        """Whether the blob was verified from there. Costs one HEAD, however many sources it has."""
        return self._bucket.size(layout.blob_provenance_key(digest, registry, repository)) is not None
