"""What a copy tells about itself. The consumer is small: the engine knows no records and no Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest

BlobState = Literal["waiting", "copying", "verifying", "copied", "exists", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class PlannedBlob:
    """A blob of the image and its first state: ``waiting`` to be copied, ``exists``, or ``skipped`` for *reason*."""

    descriptor: Descriptor
    state: BlobState
    reason: str | None = None


class Progress(Protocol):
    """Told of every step; may be called from several threads, and returns at once."""

    def resolved(self, digest: Digest) -> None:
        """The source's image has this digest."""

    def planned(self, blobs: Sequence[PlannedBlob]) -> None:
        """These are the image's blobs."""

    def advanced(self, digest: Digest, state: BlobState, copied: int = 0) -> None:
        """A blob changed its state; *copied* bytes of it have arrived so far."""

    def stopped(self, digest: Digest, state: BlobState, reason: str, code: str | None = None) -> None:
        """A blob does not come: it has ``failed``, or was left out (``skipped``). *code* is the error's."""

    def checkpointed(self, digest: Digest) -> None:
        """More of a blob is behind its checkpoint: should the worker die now, the next one has that much less to do."""
