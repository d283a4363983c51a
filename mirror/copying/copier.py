"""Copying the blobs of one image: pin, ask the bucket, plan, transfer several at a time."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from mirror.coordination.pins import Pins
from mirror.copying.blob_transfer import transfer
from mirror.copying.interruption import Interrupted, Interruption
from mirror.copying.memory import MemoryBudget
from mirror.copying.plan import CopyPlan, plan_copy
from mirror.copying.progress import PlannedBlob, Progress
from mirror.copying.source import Source
from mirror.errors import BlobBeingDeleted
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.reference import Reference
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import Bucket
from mirror.storage.provenance import ProvenanceStore

_TRANSFERS: Final = 4
_HEADS: Final = 16
FOREIGN: Final = "non-distributable layer: it stays with its publisher"


class Copier:
    """Brings an image's blobs into the bucket; manifests and links are the catalog's.

    Two copiers may bring the same blob at once: each completes only what it has verified, so the object is the same
    whichever comes last, and neither ever deletes one.
    """

    def __init__(self, source: Source, bucket: Bucket, pins: Pins, memory: MemoryBudget) -> None:
        self._source = source
        self._blobs = BlobStore(bucket)
        self._provenance = ProvenanceStore(bucket)
        self._pins = pins
        self._memory = memory

    def copy(
        self, reference: Reference, image: Image, *, holder: str, progress: Progress, interruption: Interruption
    ) -> CopyPlan:
        """Make the bucket hold every distributable blob of *image*, pinned for *holder* before it is looked for.

        Raises the first error of any blob, when all transfers have stopped; nothing half-written is left.
        """
        everything = list(image.sizes)
        self._pin(holder, everything, interruption)
        plan = plan_copy(image, self._held(image.blobs))
        progress.planned(
            [
                *(PlannedBlob(blob, "waiting") for blob in plan.to_copy),
                *(PlannedBlob(blob, "exists") for blob in plan.held),
                *(PlannedBlob(blob, "skipped", FOREIGN) for blob in plan.foreign),
            ]
        )
        self._transfer_all(reference, plan.to_copy, progress, interruption)
        return plan

    def _pin(self, holder: str, digests: list[Digest], interruption: Interruption) -> None:
        """A deletion that is under way takes moments: wait for its end rather than fail."""
        waiting = Retrying(
            retry=retry_if_exception_type(BlobBeingDeleted),
            stop=stop_after_attempt(6),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            sleep=interruption.wait,
            reraise=True,
        )
        waiting(self._pins.pin, holder, digests)

    def _held(self, blobs: Iterable[Descriptor]) -> dict[Digest, int]:
        digests = [blob.digest for blob in blobs]
        with ThreadPoolExecutor(_HEADS, thread_name_prefix="heads") as pool:
            sizes = list(pool.map(self._blobs.held, digests))
        return {digest: size for digest, size in zip(digests, sizes, strict=True) if size is not None}

    def _transfer_all(
        self, reference: Reference, blobs: Iterable[Descriptor], progress: Progress, interruption: Interruption
    ) -> None:
        errors: list[BaseException] = []
        with interruption.part() as together, ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="blob") as pool:

            def one(blob: Descriptor) -> None:
                try:
                    together.check()
                    self._transfer(reference, blob, progress, together)
                except BaseException as error:
                    errors.append(error)
                    together.interrupt("another blob of the image failed")
                    raise

            for future in [pool.submit(one, blob) for blob in blobs]:
                future.exception()
        interruption.check()
        if errors:
            raise errors[0]

    def _transfer(self, reference: Reference, blob: Descriptor, progress: Progress, interruption: Interruption) -> None:
        progress.advanced(blob.digest, "copying")
        try:
            transfer(
                self._source,
                reference,
                blob,
                self._blobs,
                self._memory,
                interruption,
                report=partial(progress.advanced, blob.digest, "copying"),
                verifying=partial(progress.advanced, blob.digest, "verifying", blob.size),
            )
        except Interrupted:
            progress.advanced(blob.digest, "waiting")
            raise
        except BaseException:
            progress.advanced(blob.digest, "failed")
            raise
        self._provenance.record_blob_source(blob.digest, reference.registry, reference.repository)
        progress.advanced(blob.digest, "copied", blob.size)
