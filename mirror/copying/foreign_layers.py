"""Find out which foreign layers of an image its source serves.

A foreign layer has a media type that says that registries do not distribute it (image spec, layer.md). Its descriptor
may name URLs of its publisher. A registry may hold it all the same, and then serves it to every client. Such a layer is
mirrored like any other. The URLs are never requested.

A layer is left out only if the source says that it does not serve it: with a 404 or a 403. All other failures are those
of any blob: the task waits, or fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from mirror.copying.cancellation import Cancellation
from mirror.copying.ports import Source
from mirror.errors import BlobUnknown, Denied, MirrorError, SourceError
from mirror.oci.descriptor import Descriptor
from mirror.oci.image import LeftOut
from mirror.oci.reference import Reference

_REASON: Final = "a foreign layer that the source does not serve"
_THREADS: Final = 8
_QUEUED: Final = 1_000
"""Requests that are queued at a time: each one in the queue takes 1.5 kB."""
_LOG = structlog.get_logger(__name__)


def find_unserved(
    source: Source, reference: Reference, layers: Sequence[Descriptor], cancellation: Cancellation
) -> list[LeftOut]:
    """Return those of the foreign *layers* that the source does not serve. Sends nothing if there are no layers.

    Raises OperationCanceled, and what any request for a blob raises, apart from BlobUnknown and Denied.
    """
    if not layers:
        return []
    found: list[LeftOut | None] = []
    with ThreadPoolExecutor(min(len(layers), _THREADS), "foreign", initializer=cancellation.bind_thread) as pool:
        try:
            for begin in range(0, len(layers), _QUEUED):
                found += pool.map(partial(_require, source, reference), layers[begin : begin + _QUEUED])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    left_out = [layer for layer in found if layer]
    if left_out:
        _LOG.info("foreign layers are left out", source=str(reference), layers=len(left_out))
    return left_out


def unserved(layer: Descriptor, error: MirrorError) -> LeftOut | None:
    """Return the foreign layer as left out, if *error* says that its source does not serve it. None if not."""
    if not isinstance(error, BlobUnknown | Denied):
        return None
    return LeftOut(layer, f"{_REASON}: {error.message}", error.code)


def _require(source: Source, reference: Reference, layer: Descriptor) -> LeftOut | None:
    try:
        source.require_blob(reference, layer)
    except SourceError as error:
        if left_out := unserved(layer, error):
            return left_out
        raise
    return None
