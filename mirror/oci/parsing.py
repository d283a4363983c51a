"""From a manifest's exact bytes to a value, refusing what is damaged, unknown or made to be read in two ways."""

from __future__ import annotations

import json
import sys
from typing import Any, Final, TypeGuard

from mirror.errors import InvalidDigest, ManifestInvalid, MediaTypeUnsupported
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor, require_size
from mirror.oci.digest import Digest
from mirror.oci.index import Index
from mirror.oci.manifest import Manifest
from mirror.oci.platform import Platform

MAX_MANIFEST_SIZE: Final = 4 * 1024 * 1024
"""Bytes; the distribution spec asks registries to take at least this, and most take no more."""
MAX_ENTRIES: Final = 10_000
"""Layers of one manifest, or manifests of one index."""
_MAX_TYPE_LENGTH: Final = 255
_FIELDS: Final = ("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "subject", "artifactType")
_DESCRIPTOR_FIELDS: Final = ("mediaType", "digest", "size", "platform", "urls", "data", "artifactType")
_PLATFORM_FIELDS: Final = ("os", "architecture", "variant", "os.version", "os.features")


def parse_manifest(body: bytes, content_type: str | None, *, what: str) -> Manifest | Index:
    """Read a manifest or an index.

    *content_type* is what the registry (or the descriptor) says the body is, without parameters; None or empty where
    nothing was said, as for bytes read from the bucket. *what* names it in errors: a reference or a digest.

    Entries of an index may have any media type, or none. Raises MediaTypeUnsupported where the body itself is schema 1
    or of an unknown type, ManifestInvalid for a body that is no JSON object,
    that claims to be both a manifest and an index or another type than it was served as (CVE-2021-41190), or whose
    descriptors are unusable, SizeInvalid for a descriptor whose size is out of bounds.
    """
    if len(body) > MAX_MANIFEST_SIZE:
        raise ManifestInvalid(what, f"it has {len(body)} bytes, more than {MAX_MANIFEST_SIZE}")
    document = _load(body, what)
    _refuse_schema_1(document, content_type, what)
    media_type = _media_type(document, content_type, what)
    if not _is_number(document.get("schemaVersion"), 2):
        raise ManifestInvalid(what, "its schemaVersion is not 2")
    subject = _optional_descriptor(document, "subject", what)
    artifact_type = _text(document, "artifactType", what)
    if media_type in media_types.INDEXES:
        return Index(media_type, _entries(document, "manifests", what), subject, artifact_type)
    config = _optional_descriptor(document, "config", what)
    if config is None:
        raise ManifestInvalid(what, "it has no config")
    return Manifest(media_type, config, _entries(document, "layers", what), subject, artifact_type)


def _load(body: bytes, what: str) -> dict[str, Any]:
    """A JSON object in which no field stands twice: of two, Go's decoder takes the last and others the first."""

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ManifestInvalid(what, "a field stands in it twice")
        return fields

    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=without_duplicates, parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else "it is not JSON"
        raise ManifestInvalid(what, reason) from None
    if not isinstance(document, dict):
        raise ManifestInvalid(what, "it is not a JSON object")
    _refuse_other_spellings(document, _FIELDS, what)
    return document


def _refuse_other_spellings(fields: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    """Go's decoder takes ``Layers`` and ``layer\u017f`` for ``layers`` (Unicode case folding).

    A body that relies on it shows one image to us and another to the node that pulls it.
    """
    exact = {name.casefold(): name for name in names}
    for key in fields:
        name = exact.get(key.casefold(), key)
        if name != key:
            raise ManifestInvalid(what, f"it spells the field '{name}' in another way")


def _no_constants(name: str) -> None:
    raise ValueError(name)


def _refuse_schema_1(document: dict[str, Any], content_type: str | None, what: str) -> None:
    if _is_number(document.get("schemaVersion"), 1) or "fsLayers" in document:
        signed = content_type == media_types.DOCKER_SCHEMA_1_SIGNED
        raise MediaTypeUnsupported(what, media_types.DOCKER_SCHEMA_1_SIGNED if signed else media_types.DOCKER_SCHEMA_1)


def _media_type(document: dict[str, Any], content_type: str | None, what: str) -> str:
    """The one type that header, body and fields agree on."""
    stated = _text(document, "mediaType", what)
    if content_type and content_type not in media_types.MANIFESTS | media_types.INDEXES:
        raise MediaTypeUnsupported(what, content_type)
    if stated and stated not in media_types.MANIFESTS | media_types.INDEXES:
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


def _entries(document: dict[str, Any], field: str, what: str) -> tuple[Descriptor, ...]:
    """Read the layers or the children. None of them may be written as an empty list or as null.

    Go programs write null for a list that they never filled, and every reader takes it as empty. Some artifacts leave
    ``layers`` out. An index without the field ``manifests`` was refused before (`_media_type`): distribution would take
    it for an image manifest (registry/storage/manifeststore.go).
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
    return Descriptor(sys.intern(media_type), parsed, _size(size, parsed, where, what), platform, data)


def _size(size: object, digest: Digest, where: str, what: str) -> int:
    """A whole number of bytes. One that no blob can have would overflow sums that others count on."""
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
    """Printable ASCII: what a media type may hold (RFC 6838), and what every log, header and record can."""
    return isinstance(value, str) and len(value) <= _MAX_TYPE_LENGTH and value.isascii() and value.isprintable()


def _is_number(value: object, number: int) -> bool:
    """Whether *value* is that whole number; Python holds ``true`` and ``1.0`` equal to 1, other readers do not."""
    return type(value) is int and value == number
