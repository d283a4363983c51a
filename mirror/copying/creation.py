"""Read when an image says that it was created. Its publisher can write any time there."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from mirror.copying.ports import ManifestReader, Source
from mirror.errors import ContentError, MirrorError, SourceError
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.manifest import Index, Manifest, parse_manifest
from mirror.oci.reference import Reference

_MAX_CONFIG_SIZE: Final = 4 * 2**20
_MAX_DEPTH: Final = 4


def read_created(source: Source, reference: Reference) -> datetime | None:
    """Return the ``created`` of the image's config. None if it has none that can be read.

    Of an index, the first manifest counts that is no attestation. This costs a GET of each manifest on the way, which
    counts against a pull limit. Raises an error that a task waits for, such as QuotaExhausted.
    """
    try:
        with source.reading(reference) as manifests:
            manifest = _manifest(manifests, reference)
        return _created(_read_config(source, reference, manifest.config)) if manifest else None
    except (ContentError, SourceError) as error:
        if _may_pass(error):
            raise
        return None


def _manifest(manifests: ManifestReader, reference: Reference) -> Manifest | None:
    expect: Descriptor | None = None
    for _ in range(_MAX_DEPTH):
        remote = manifests.get(reference, expect=expect)
        media_type = None if remote.media_type in media_types.GENERIC else remote.media_type
        parsed = parse_manifest(remote.body, media_type, what=str(reference))
        if isinstance(parsed, Manifest):
            return parsed
        expect = _first_child(parsed)
        if expect is None:
            return None
        reference = replace(reference, digest=expect.digest)
    return None


def _first_child(index: Index) -> Descriptor | None:
    children = (child for child in index.children if not (child.platform and child.platform.is_unknown))
    return next(children, None)


def _read_config(source: Source, reference: Reference, config: Descriptor) -> bytes:
    if config.size > _MAX_CONFIG_SIZE:
        return b""
    content = memoryview(bytearray(config.size))
    read = 0
    with source.open_blob(reference, config) as stream:
        while read < config.size and (count := stream.readinto(content[read:])):
            read += count
    return bytes(content[:read])


def _created(config: bytes) -> datetime | None:
    try:
        document: Any = json.loads(config)
        created = datetime.fromisoformat(document["created"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def _may_pass(error: MirrorError) -> bool:
    return error.waits_for is not None or error.retryable
