"""Manifests and indexes: the values, and the parser of their bytes.

The parser refuses what is damaged, of an unknown type, or made so that two readers see two different images.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard
from urllib.parse import urlsplit

from mirror.errors import InvalidDigest, ManifestInvalid, MediaTypeUnsupported
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor, is_foreign_layer, require_size
from mirror.oci.digest import Digest
from mirror.oci.platform import Platform

MAX_MANIFEST_SIZE: Final = 4 * 1024 * 1024
"""Bytes. The distribution spec asks registries to accept at least this much, and most accept no more."""
MAX_ENTRIES: Final = 10_000
"""The most layers of a manifest, and the most entries of an index."""
_KNOWN: Final = media_types.MANIFESTS | media_types.INDEXES
_MAX_TYPE_LENGTH: Final = 255
_MOST_URLS: Final = 8
_MAX_URL_LENGTH: Final = 2048
_PLAIN_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_NO_MANIFEST_HINT: Final = (
    "Something else than a manifest is served there. Check the registry's address, and any proxy before it. A Helm "
    "repository with an index.yaml is no registry: push its charts to one."
)
_FIELDS: Final = ("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "subject", "artifactType")
_DESCRIPTOR_FIELDS: Final = ("mediaType", "digest", "size", "platform", "urls", "data", "artifactType")
_REFERENCE_TYPE: Final = "vnd.docker.reference.type"
_REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"
_PLATFORM_FIELDS: Final = ("os", "architecture", "variant", "os.version", "os.features")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A Docker schema 2 or OCI image manifest (image spec, manifest.md).

    ``subject`` is the manifest that it refers to, such as the image that a signature signs. ``artifact_type`` is empty
    for an image.
    """

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config and the layers, in the order of the manifest."""
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI index or a Docker manifest list (image spec, image-index.md). It may list indexes, and may be empty."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """The entries that are manifests or indexes."""
        return tuple(d for d in self.manifests if d.media_type in _KNOWN)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The entries that are blobs: BuildKit's cache indexes have some."""
        return tuple(d for d in self.manifests if d.media_type.startswith(media_types.BLOB_PREFIXES))

    @property
    def unknown_entries(self) -> tuple[Descriptor, ...]:
        """The entries with an unknown media type, or none. The image spec says that readers ignore them."""
        known = {*self.children, *self.blobs}
        return tuple(d for d in self.manifests if d not in known)

    @property
    def possible_manifests(self) -> tuple[Descriptor, ...]:
        """The children, and the entries without a media type. Only their content shows whether they are manifests."""
        return (*self.children, *(entry for entry in self.unknown_entries if not entry.media_type))


def parse_manifest(body: bytes, content_type: str | None, *, what: str) -> Manifest | Index:
    """Parse a manifest or an index.

    *content_type* is the type that the registry or the descriptor states, without parameters. It is None or empty if
    there is none, as for bytes from the bucket. *what* is a reference or a digest, for errors. Entries of an index may
    have any media type, or none.

    Raises MediaTypeUnsupported if the body is schema 1 or of an unknown type. Raises SizeInvalid if the size in a
    descriptor is out of bounds. Raises ManifestInvalid for anything else that is wrong. That includes a body that is
    both a manifest and an index, or not of the type that it is served as (CVE-2021-41190).
    """
    if len(body) > MAX_MANIFEST_SIZE:
        raise ManifestInvalid(what, f"it has {len(body)} bytes, more than {MAX_MANIFEST_SIZE}")
    document = _load(body, what)
    _refuse_schema_1(document, content_type, what)
    media_type = _media_type(document, content_type, what)
    if not _is_number(document.get("schemaVersion"), 2):
        hint = None if "schemaVersion" in document else _NO_MANIFEST_HINT
        raise ManifestInvalid(what, "its schemaVersion is not 2", hint=hint)
    subject = _optional_descriptor(document, "subject", what)
    artifact_type = _text(document, "artifactType", what)
    if media_type in media_types.INDEXES:
        return Index(media_type, parse_entries(document, "manifests", what), subject, artifact_type)
    config = _optional_descriptor(document, "config", what)
    if config is None:
        raise ManifestInvalid(what, "it has no config")
    return Manifest(media_type, config, parse_entries(document, "layers", what), subject, artifact_type)


def refuse_schema_1(body: bytes, content_type: str | None, *, what: str) -> None:
    """Raise MediaTypeUnsupported if the body is a Docker schema 1 manifest. Anything else is left to the caller.

    For a body that does not have its digest. A signed schema 1 manifest never has it: its digest is that of the body
    without the signatures (distribution's docs/spec/manifest-v2-1.md). Servers also send it with a generic type.
    """
    if content_type in media_types.SCHEMA_1:
        raise MediaTypeUnsupported.for_schema_1(what, content_type)
    if b'"fsLayers"' not in body:  # each has this field, and parsing takes ten times the memory of the body
        return
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        _refuse_schema_1(document, content_type, what)


def _load(body: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object and refuse duplicate fields.

    Of two fields with the same name, Go's decoder uses the last one, and other decoders the first one.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ManifestInvalid(what, "it has a field twice")
        return fields

    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=without_duplicates, parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise ManifestInvalid(what, "it is nested too deeply") from None
        raise ManifestInvalid(what, "it is not JSON", hint=_NO_MANIFEST_HINT) from None
    if not isinstance(document, dict):
        raise ManifestInvalid(what, "it is not a JSON object", hint=_NO_MANIFEST_HINT)
    _refuse_other_spellings(document, _FIELDS, what)
    return document


def _refuse_other_spellings(fields: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    """Refuse ``Layers`` and ``layer\u017f``, because Go's decoder reads both as ``layers`` (Unicode case folding).

    A body that uses this shows one image to the mirror and another to the node that pulls it.
    """
    exact = {name.casefold(): name for name in names}
    for key in fields:
        name = exact.get(key.casefold(), key)
        if name != key:
            raise ManifestInvalid(what, f"it spells the field '{name}' in another way")


def _no_constants(name: str) -> None:
    raise ValueError(name)


def _refuse_schema_1(document: dict[str, Any], content_type: str | None, what: str) -> None:
    if _is_number(document.get("schemaVersion"), 1) or "fsLayers" in document or content_type in media_types.SCHEMA_1:
        is_signed = content_type == media_types.DOCKER_SCHEMA_1_SIGNED
        media_type = media_types.DOCKER_SCHEMA_1_SIGNED if is_signed else media_types.DOCKER_SCHEMA_1
        raise MediaTypeUnsupported.for_schema_1(what, media_type)


def _media_type(document: dict[str, Any], content_type: str | None, what: str) -> str:
    """Return the type on which header, body and fields agree."""
    stated = _text(document, "mediaType", what)
    if content_type and content_type not in _KNOWN:
        raise MediaTypeUnsupported(what, content_type)
    if stated and stated not in _KNOWN:
        raise MediaTypeUnsupported(what, stated)
    if stated and content_type and stated != content_type:
        raise ManifestInvalid(what, f"it says it is '{stated}' and is served as '{content_type}'")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ManifestInvalid(what, "it has both 'manifests' and 'layers' or 'config'")
    sniffed = media_types.OCI_INDEX if "manifests" in document else media_types.OCI_MANIFEST
    found = stated or content_type or sniffed
    if not stated and found not in (media_types.OCI_INDEX, media_types.OCI_MANIFEST):
        raise ManifestInvalid(what, f"it is served as '{found}', whose body must state its mediaType")
    if (found in media_types.INDEXES) != ("manifests" in document):
        has = "no" if found in media_types.INDEXES else "the field"
        raise ManifestInvalid(what, f"it is '{found}' and has {has} 'manifests'")
    return found


def parse_entries(document: Mapping[str, Any], field: str, what: str) -> tuple[Descriptor, ...]:
    """Parse the layers or the children of a document. Null means an empty list.

    Go programs write null for a list that they never filled, and every reader accepts it. Some artifacts have no field
    ``layers``. `_media_type` has refused an index without the field ``manifests``: distribution would read it as an
    image manifest (registry/storage/manifeststore.go).
    """
    entries = document.get(field)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise ManifestInvalid(what, f"its '{field}' is not a list")
    if len(entries) > MAX_ENTRIES:
        raise ManifestInvalid(what, f"its '{field}' has {len(entries)} entries, more than {MAX_ENTRIES}")
    untyped = field == "manifests"
    return tuple(_descriptor(entry, f"{field}[{n}]", what, may_be_untyped=untyped) for n, entry in enumerate(entries))


def _optional_descriptor(document: dict[str, Any], field: str, what: str) -> Descriptor | None:
    entry = document.get(field)
    return None if entry is None else _descriptor(entry, field, what)


def _descriptor(entry: object, where: str, what: str, *, may_be_untyped: bool = False) -> Descriptor:
    if not isinstance(entry, dict):
        raise ManifestInvalid(what, f"{where} is not a descriptor")
    _refuse_other_spellings(entry, _DESCRIPTOR_FIELDS, what)
    media_type, size, digest = entry.get("mediaType"), entry.get("size"), entry.get("digest")
    media_type = "" if media_type is None and may_be_untyped else media_type
    if not is_short_text(media_type) or not (media_type or may_be_untyped):
        raise ManifestInvalid(what, f"{where} has no usable mediaType")
    if not isinstance(digest, str):
        raise ManifestInvalid(what, f"{where} has no digest")
    try:
        parsed = Digest.parse(digest)
    except InvalidDigest:
        raise ManifestInvalid(what, f"{where} has a malformed or unsupported digest") from None
    platform = _platform(entry.get("platform"), where, what)
    data = entry.get("data") if isinstance(entry.get("data"), str) else None
    attested = _attested(entry.get("annotations")) if may_be_untyped else None
    urls = _urls(entry.get("urls")) if is_foreign_layer(media_type) else ()
    return Descriptor(sys.intern(media_type), parsed, _size(size, parsed, where, what), platform, data, attested, urls)


def _urls(entry: object) -> tuple[str, ...]:
    """Return the first few http and https URLs. Others are no reason to refuse the image, so they are ignored."""
    usable = (url for url in entry if _is_usable_url(url)) if isinstance(entry, list) else ()
    return tuple(dict.fromkeys(itertools.islice(usable, _MOST_URLS)))


def _is_usable_url(url: object) -> bool:
    """Whether *url* is short printable ASCII with a plain host, and has no user in it (RFC 3986, 3.2.1)."""
    if not isinstance(url, str) or len(url) > _MAX_URL_LENGTH or not url.isascii() or not url.isprintable():
        return False
    if " " in url or "\\" in url or not url.startswith(("https://", "http://")):
        return False
    try:
        parts = urlsplit(url)
        return bool(_PLAIN_HOST.fullmatch(parts.netloc) and parts.port != 0)
    except ValueError:
        return False


def _attested(annotations: object) -> Digest | None:
    """Return the manifest that an entry attests, None if it is no attestation (BuildKit, attestation-storage.md)."""
    if not isinstance(annotations, dict) or annotations.get(_REFERENCE_TYPE) != "attestation-manifest":
        return None
    try:
        return Digest.parse(str(annotations.get(_REFERENCE_DIGEST)))
    except InvalidDigest:
        return None


def _size(size: object, digest: Digest, where: str, what: str) -> int:
    """Check that the size is a whole number in bounds. Others add up sizes, and a larger one could overflow a sum."""
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise ManifestInvalid(what, f"{where} has no usable size")
    require_size("blob", f"{digest} of {what}", size)
    if not isinstance(size, int):
        raise ManifestInvalid(what, f"{where} has no usable size")
    return size


def _platform(entry: object, where: str, what: str) -> Platform | None:
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise ManifestInvalid(what, f"{where} has a platform that is not an object")
    _refuse_other_spellings(entry, _PLATFORM_FIELDS, what)
    os, architecture, variant, os_version = (
        _text(entry, field, what) for field in ("os", "architecture", "variant", "os.version")
    )
    return Platform(os, architecture, variant, os_version)


def _text(fields: dict[str, Any], name: str, what: str) -> str:
    value = fields.get(name, "")
    if value is None:
        return ""
    if not is_short_text(value):
        raise ManifestInvalid(what, f"its '{name}' is not a short text")
    return value


def is_short_text(value: object) -> TypeGuard[str]:
    """Whether *value* is short printable ASCII, as a media type is (RFC 6838). It fits any log, header and record."""
    return isinstance(value, str) and len(value) <= _MAX_TYPE_LENGTH and value.isascii() and value.isprintable()


def _is_number(value: object, number: int) -> bool:
    """Whether *value* is this integer. In Python ``true`` and ``1.0`` equal 1, but not for other readers."""
    return type(value) is int and value == number
