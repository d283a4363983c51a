"""What the transfers of one image's blobs work with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mirror.coordination.checkpoints import Checkpoints
from mirror.copying.interruption import Interruption
from mirror.copying.memory import MemoryBudget
from mirror.copying.range_reader import RangeReader
from mirror.copying.source import Source
from mirror.copying.turns import Turns
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.storage.blobs import BlobStore
from mirror.storage.provenance import ProvenanceStore


@dataclass(frozen=True, slots=True)
class Means:
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
    turns: Turns
    own: ThreadPoolExecutor
    fetchers: ThreadPoolExecutor
    storers: ThreadPoolExecutor

    def reader(
        self, blob: Descriptor, interruption: Interruption, *, start: int, end: int, only_ranges: bool = False
    ) -> RangeReader:
        return RangeReader(
            self.source, self.reference, blob, interruption, start=start, end=end, only_ranges=only_ranges
        )
