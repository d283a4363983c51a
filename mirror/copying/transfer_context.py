"""What the transfers of one image's blobs work with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mirror.copying.cancellation import Cancellation
from mirror.copying.largest_first import LargestFirst
from mirror.copying.memory import MemoryBudget
from mirror.copying.range_reader import RangeReader
from mirror.copying.source import Source
from mirror.locks.checkpoints import Checkpoints
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.storage.blobs import BlobStore
from mirror.storage.provenance import ProvenanceStore


@dataclass(frozen=True, slots=True)
class TransferContext:
    """Shared by all transfers of a copy, which is made for *holder*.

    Its threads: *own*, as many as there are blobs at once, so that each blob always has one; and for the parts of all
    blobs *fetchers* and *storers*.
    """

    source: Source
    reference: Reference
    holder: str
    blobs: BlobStore
    provenance: ProvenanceStore
    checkpoints: Checkpoints
    memory: MemoryBudget
    turns: LargestFirst
    own: ThreadPoolExecutor
    fetchers: ThreadPoolExecutor
    storers: ThreadPoolExecutor

    def reader(
        self, blob: Descriptor, cancellation: Cancellation, *, start: int, end: int, only_ranges: bool = False
    ) -> RangeReader:
        return RangeReader(
            self.source, self.reference, blob, cancellation, start=start, end=end, only_ranges=only_ranges
        )
