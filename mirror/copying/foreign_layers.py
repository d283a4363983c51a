"""Decide what becomes of foreign layers, and of other blobs that the source does not serve.

A foreign layer has a media type that says that registries do not distribute it (image spec, layer.md). Its descriptor
may name URLs of its publisher. A registry may hold it all the same, and then serves it to every client.

- ``when-held``: such a layer is mirrored like any other if the source serves it. Its URLs are never requested.
- ``include``: what the source does not serve is read from the URLs, in their order. If none delivers it, the job fails.
- ``leave-out``: neither the source nor a URL is asked for it.

A 404 or a 403 means that the source does not serve a layer. All other failures are those of any blob: the task waits,
or fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import structlog

from mirror.copying.blob_transfer import BlobTransfer
from mirror.copying.cancellation import Cancellation
from mirror.copying.ports import Source
from mirror.errors import BlobUnknown, ContentError, Denied, ForeignLayerUnavailable, MirrorError, SourceError
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut
from mirror.oci.reference import Reference

_REASON: Final = "a foreign layer that the source does not serve"
_BY_CHOICE: Final = "a foreign layer, and the job leaves those out"
_UNKNOWN_USE: Final = "an entry of the index with the unknown media type"
_THREADS: Final = 8
_QUEUED: Final = 1_000
"""Requests that are queued at a time: each one in the queue takes 1.5 kB."""
_LOG = structlog.get_logger(__name__)


def leave_out_all(image: Image) -> tuple[LeftOut, ...]:
    """Return all foreign layers of *image* as left out by choice."""
    return tuple(LeftOut(layer, _BY_CHOICE) for layer in image.foreign_layers)


def find_unserved(
    source: Source, reference: Reference, layers: Sequence[Descriptor], cancellation: Cancellation
) -> tuple[LeftOut, ...]:
    """Return those of the foreign *layers* that the source does not serve. Sends nothing if there are no layers.

    Raises OperationCanceled, and what any request for a blob raises, apart from BlobUnknown and Denied.
    """
    if not layers:
        return ()
    found: list[LeftOut | None] = []
    with ThreadPoolExecutor(min(len(layers), _THREADS), "foreign", initializer=cancellation.bind_thread) as pool:
        try:
            for begin in range(0, len(layers), _QUEUED):
                found += pool.map(partial(_require, source, reference), layers[begin : begin + _QUEUED])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    absent = tuple(layer for layer in found if layer)
    if absent:
        _LOG.info("the source does not serve foreign layers", source=str(reference), layers=len(absent))
    return absent


def require_urls(unserved: Sequence[LeftOut]) -> frozenset[Digest]:
    """Return the digests of layers that are to come from URLs. Raises ForeignLayerUnavailable if one has none."""
    for layer in unserved:
        if not layer.descriptor.urls:
            raise ForeignLayerUnavailable(str(layer.descriptor.digest), ())
    return frozenset(layer.descriptor.digest for layer in unserved)


@dataclass(frozen=True, slots=True)
class BlobFetcher:
    """Fetches the blobs of one image, wherever they can be read.

    The image is complete without the *optional* blobs. The source does not serve those *from_urls*. If it turns out not
    to serve another foreign layer, that comes from its URLs as well with *include_foreign*, and is left out otherwise.
    """

    optional: frozenset[Digest]
    from_urls: frozenset[Digest]
    include_foreign: bool

    def fetch(self, blob: Descriptor, transfer: BlobTransfer) -> LeftOut | None:
        """Run the *transfer* of the blob. Return the blob as left out if the image is complete without it.

        Raises what `BlobTransfer.run` raises, and ForeignLayerUnavailable.
        """
        if blob.digest in self.from_urls:
            _fetch_from_urls(blob, transfer)
            return None
        try:
            transfer.run()
        except (SourceError, ContentError) as error:
            return self._fetch_elsewhere(blob, transfer, error)
        return None

    def _fetch_elsewhere(self, blob: Descriptor, transfer: BlobTransfer, error: MirrorError) -> LeftOut | None:
        """Take the blob from its descriptor or its URLs, or leave it out. Raises *error* if none of this is right."""
        if (content := blob.inline_content()) is not None:
            transfer.store_inline(content)
            return None
        if blob.is_foreign_layer:
            left_out = _unserved(blob, error)
            if left_out and self.include_foreign:
                _fetch_from_urls(blob, transfer)
                return None
        else:
            left_out = self._unusable(blob, error)
        if left_out is None:
            raise error
        transfer.discard()
        return left_out

    def _unusable(self, blob: Descriptor, error: MirrorError) -> LeftOut | None:
        if blob.digest not in self.optional or error.waits_for is not None:
            return None
        reason = f"{_UNKNOWN_USE} '{blob.media_type}', and the source does not serve it: {error.message}"
        return LeftOut(blob, reason, error.code)


def _fetch_from_urls(layer: Descriptor, transfer: BlobTransfer) -> None:
    """Run the transfer from the first URL of *layer* that delivers it. The next one continues where it failed.

    Raises the first error that the task can wait for, if there is one, or else ForeignLayerUnavailable.
    """
    failures: list[tuple[str, MirrorError]] = []
    for url in layer.urls:
        transfer.read_from(url)
        try:
            transfer.run()
        except (SourceError, ContentError) as error:
            failures.append((urlsplit(url).netloc, error))
            if isinstance(error, ContentError):
                transfer.discard()
        else:
            return
    if passing := next((failure for _, failure in failures if failure.waits_for is not None), None):
        raise passing
    raise ForeignLayerUnavailable(str(layer.digest), [(host, failure.reason) for host, failure in failures])


def _unserved(layer: Descriptor, error: MirrorError) -> LeftOut | None:
    """Return the foreign layer as left out, if *error* says that its source does not serve it. None if not."""
    if not isinstance(error, BlobUnknown | Denied):
        return None
    return LeftOut(layer, f"{_REASON}: {error.message}", error.code)


def _require(source: Source, reference: Reference, layer: Descriptor) -> LeftOut | None:
    try:
        source.require_blob(reference, layer)
    except SourceError as error:
        if left_out := _unserved(layer, error):
            return left_out
        raise
    return None
