"""Referrers: manifests that say something of another manifest, such as its signatures and its SBOM. Pure.

A referrer is found in one of three ways. The manifest that it is about is its subject.

- The referrers API of the distribution spec lists it ("Listing Referrers").
- Where a registry has no such API, an index under the subject's fallback tag lists it ("Referrers Tag Schema").
- cosign 2 and regclient use tags of their own, which are made of the subject's digest: ``sha256-<hex>.sig``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

from mirror.errors import ManifestInvalid
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.manifest import Manifest, is_short_text, parse_entries, parse_manifest
from mirror.oci.reference import is_tag

EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
"""The media type of an empty config. GHCR names it as the artifact type of every referrer."""
COSIGN_SUFFIXES: Final = (".sig", ".att", ".sbom")
REFERRER_TAG: Final = re.compile(r"sha(?:256|512)-[0-9a-f]{64}.*", re.DOTALL)
"""Tags of the referrers tag schema, of cosign, and of regclient's digest tags."""
CHILDREN_EVERY: Final = timedelta(days=1)
"""Children that had no referrers are looked at again after this time. The image itself is looked at by every job."""
_LONGEST_ANNOTATIONS: Final = 64 * 1024
_LONGEST_HEX: Final = 64
"""Characters of a digest in a fallback tag. A longer digest is cut."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """An entry of a list of referrers. *artifact_type* is empty if the list does not tell it."""

    descriptor: Descriptor
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest

    @property
    def is_typed(self) -> bool:
        """Whether the list tells the artifact type. GHCR's only tells that of the empty config."""
        return self.artifact_type not in ("", EMPTY_TYPE)

    def entry(self) -> dict[str, Any]:
        """Return it as an entry of an index."""
        found: dict[str, Any] = {"mediaType": self.descriptor.media_type, "digest": str(self.digest)}
        found["size"] = self.descriptor.size
        if self.artifact_type:
            found["artifactType"] = self.artifact_type
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        return found


@dataclass(frozen=True, slots=True)
class ReferrersSeen:
    """What the last look at the source of a tag has seen. So the next one can say that nothing is new.

    *rules* are those of its job. *first* stands for the referrers of the image itself, and *rest* for those of its
    children and of referrers. Each is a short hash, or empty if there were none. *count* is the number of referrers
    that were found. *at* is the time of the look at all of them, in seconds since the epoch.
    """

    rules: str
    first: str
    rest: str
    count: int
    at: int

    def suffices(self, rules: str, moment: datetime) -> bool:
        """Return whether a look at the image itself can show that nothing is new."""
        is_recent = moment.timestamp() - self.at < CHILDREN_EVERY.total_seconds()
        return self.rules == rules and not self.rest and is_recent

    def fields(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: object) -> Self | None:
        """Read what `fields` returned. None for anything else."""
        match fields:
            case {"rules": str(rules), "first": str(first), "rest": str(rest), "count": int(count), "at": int(at)}:
                return cls(rules, first, rest, count, at)
            case _:
                return None


def hash_of(lines: Iterable[str]) -> str:
    """Return a short hash of these lines in any order. Empty without lines."""
    found = "\n".join(sorted(lines))
    return hashlib.sha256(found.encode()).hexdigest()[:16] if found else ""


def fallback_tag(subject: Digest) -> str:
    """Return the tag under which a client lists referrers at a registry without the API."""
    return f"{subject.algorithm}-{subject.hex[:_LONGEST_HEX]}"


def cosign_tags(subject: Digest) -> tuple[str, ...]:
    """Return the tags under which cosign 2 keeps signatures, attestations and SBOMs of *subject*.

    None for SHA-512: they would be longer than a tag may be, and registries refuse such a request.
    """
    tags = (f"{subject.algorithm}-{subject.hex}{suffix}" for suffix in COSIGN_SUFFIXES)
    return tuple(tag for tag in tags if is_tag(tag))


def described(content: ManifestContent) -> Referrer:
    """Return the entry for a referrer from its manifest, as the distribution spec wants it.

    The artifact type is the manifest's, else the media type of its config. Its annotations are copied, but not if they
    have more than 64 KiB. A list has 4 MiB for all of its entries.
    """
    parsed = content.parsed
    artifact_type = parsed.artifact_type
    if not artifact_type and isinstance(parsed, Manifest):
        artifact_type = parsed.config.media_type
    annotations = _annotations(json.loads(content.body).get("annotations"))
    if len(json.dumps(annotations)) > _LONGEST_ANNOTATIONS:
        annotations = {}
    descriptor = Descriptor(parsed.media_type, content.descriptor.digest, len(content.body))
    return Referrer(descriptor, artifact_type, annotations)


def completed(listed: Referrer, content: ManifestContent) -> Referrer:
    """Return an entry of a list with what only its manifest, *content*, tells: size, artifact type, annotations."""
    found = described(content)
    artifact_type = listed.artifact_type if listed.is_typed else found.artifact_type
    return Referrer(found.descriptor, artifact_type, listed.annotations or found.annotations)


def read_list(body: bytes, *, what: str) -> tuple[Referrer, ...]:
    """Read a list of referrers: a response of the API, or the index of a fallback tag.

    *what* names the list in errors. Raises ManifestInvalid, MediaTypeUnsupported or SizeInvalid.
    """
    index = parse_manifest(body, media_types.OCI_INDEX, what=what)
    if isinstance(index, Manifest):
        raise ManifestInvalid(what, "it is no index")
    return _referrers(index.manifests, json.loads(body).get("manifests") or [])


def read_entries(entries: Sequence[Any], *, what: str) -> tuple[Referrer, ...]:
    """Read the entries of a list of referrers whose JSON was parsed before, such as those of several pages.

    *what* names the list in errors. Raises ManifestInvalid or SizeInvalid.
    """
    return _referrers(parse_entries({"manifests": entries}, "manifests", what), entries)


def write_list(referrers: Iterable[Referrer]) -> bytes:
    """Return the index that lists *referrers*, each digest once, in their order."""
    entries: dict[Digest, dict[str, Any]] = {}
    for referrer in referrers:
        entries.setdefault(referrer.digest, referrer.entry())
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": list(entries.values())}
    return json.dumps(document, separators=(",", ":")).encode()


def extend_list(body: bytes, referrers: Iterable[Referrer]) -> bytes:
    """Return the list *body*, which was read before, with more entries at its end. All else in it stays."""
    document = json.loads(body)
    document["manifests"] = [*(document.get("manifests") or ()), *(referrer.entry() for referrer in referrers)]
    return json.dumps(document, separators=(",", ":")).encode()


def shorten_list(body: bytes, digests: Collection[Digest]) -> bytes:
    """Return the list *body*, which was read before, without the entries of *digests*. All else in it stays."""
    document, unwanted = json.loads(body), {str(digest) for digest in digests}
    document["manifests"] = [entry for entry in document["manifests"] if entry["digest"] not in unwanted]
    return json.dumps(document, separators=(",", ":")).encode()


def _referrers(descriptors: Iterable[Descriptor], entries: Iterable[Mapping[str, Any]]) -> tuple[Referrer, ...]:
    return tuple(
        Referrer(descriptor, _type(entry.get("artifactType")), _annotations(entry.get("annotations")))
        for descriptor, entry in zip(descriptors, entries, strict=True)
    )


def _type(value: object) -> str:
    return value if is_short_text(value) else ""


def _annotations(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}
