"""What the copy engine needs of others: a registry to read from, and a listener for its progress.

The engine knows no HTTP, no records and no Redis. `mirror.registry.client` and `mirror.jobs.progress` implement these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.oci.referrer import Referrer

BlobState = Literal["waiting", "copying", "verifying", "copied", "exists", "skipped", "failed"]


class RemoteManifest(Protocol):
    """A manifest's exact bytes, the Content-Type they came with (None without one), and their digest."""

    @property
    def body(self) -> bytes: ...
    @property
    def media_type(self) -> str | None: ...
    @property
    def digest(self) -> Digest: ...


class ManifestReader(Protocol):
    """Reads the manifests of one image. As a context: at its end, quota that was reserved and not used is returned."""

    def is_limited(self) -> bool:
        """Return whether reading costs: the registry has announced a pull limit."""

    def get(self, reference: Reference, *, expect: Descriptor | None = None) -> RemoteManifest: ...
    def get_hinted(self, reference: Reference) -> RemoteManifest | None:
        """Read by a digest that only a HEAD has named. Returns None if it cannot be read that way."""

    def expect(self, count: int) -> None:
        """Reserve quota for *count* more manifests. Raises QuotaExhausted, before any is read, if it is not enough."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BlobStream(Protocol):
    """``length`` bytes of a blob, from byte ``start`` on.

    That is the requested range, or a shorter or longer one with the same start. From a server that knows no ranges it
    is the whole blob. `readinto` fills its buffer as far as bytes are left, and returns 0 after the last one.
    """

    @property
    def start(self) -> int: ...
    @property
    def length(self) -> int: ...
    def readinto(self, buffer: memoryview) -> int: ...
    def interrupt(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Source(Protocol):
    """A registry to read from. Its errors are `mirror.errors.SourceError` and `ContentError`."""

    def head_manifest(self, reference: Reference) -> Digest | None: ...
    def reading(self, reference: Reference) -> ManifestReader: ...
    def open_blob(
        self, reference: Reference, blob: Descriptor, *, offset: int = 0, length: int | None = None
    ) -> BlobStream:
        """Open *length* bytes from *offset* on, or all that follow. A server without ranges sends the whole blob."""

    def open_url(self, url: str, blob: Descriptor, *, offset: int = 0, length: int | None = None) -> BlobStream:
        """Open a range of a blob at a URL of its publisher, without any login. Otherwise as `open_blob`."""

    def require_blob(self, reference: Reference, blob: Descriptor) -> None:
        """Raise BlobUnknown unless the registry has the blob. No more than its first bytes are read."""

    def referrers(self, subject: Reference) -> tuple[Referrer, ...] | None:
        """Return the referrers of a digest. None if the registry has no API for that."""

    def referrer_tags(self, repository: Reference) -> frozenset[str] | None:
        """Return all tags that may belong to referrers. None if the registry gives no complete list."""

    def tag_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that a tag shows. None if there is no such tag, for certain."""


@dataclass(frozen=True, slots=True)
class PlannedBlob:
    """A blob of the image and its first state: ``waiting`` to be copied, ``exists``, or ``skipped`` for *reason*.

    *code* is that of the error that was the cause, if there was one.
    """

    descriptor: Descriptor
    state: BlobState
    reason: str | None = None
    code: str | None = None


class Progress(Protocol):
    """Receives every step of a copy. Its methods are called from several threads, and return at once."""

    def resolved(self, digest: Digest) -> None:
        """The source's image has this digest."""

    def planned(self, blobs: Sequence[PlannedBlob]) -> None:
        """These are the image's blobs."""

    def advanced(self, digest: Digest, state: BlobState, copied: int = 0) -> None:
        """A blob changed its state. *copied* bytes of it have arrived so far."""

    def stopped(self, digest: Digest, state: BlobState, reason: str, code: str | None = None) -> None:
        """A blob will not be copied: it has ``failed``, or is left out (``skipped``). *code* is the error's code."""

    def checkpointed(self, digest: Digest) -> None:
        """A blob's checkpoint has moved on. If the worker dies now, the next one has that much less to do."""
