"""What the copy engine needs of a registry client."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference


class RemoteManifest(Protocol):
    """A manifest's exact bytes, the Content-Type they came with, and their digest."""

    @property
    def body(self) -> bytes: ...
    @property
    def media_type(self) -> str | None: ...
    @property
    def digest(self) -> Digest: ...


class ManifestReader(Protocol):
    """Reads the manifests of one image; a context, at whose end what was reserved and not read is given back."""

    def is_limited(self) -> bool:
        """Whether reading costs: the registry has told of a pull limit."""

    def get(self, reference: Reference, *, expect: Descriptor | None = None) -> RemoteManifest: ...
    def get_hinted(self, reference: Reference) -> RemoteManifest | None:
        """By a digest that only a HEAD has named; None where it cannot be had so."""

    def expect(self, count: int) -> None:
        """So many more will be read: raises QuotaExhausted, before any is, if the registry's pull limit forbids."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BlobStream(Protocol):
    """``length`` bytes of a blob from ``start`` on.

    That is the range that was asked for, a shorter or longer piece that begins where it does, or the whole blob where
    the server does not know ranges. `readinto` fills its buffer as far as bytes are left, and answers 0 behind the
    last one.
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
    """A registry that is read from; its errors are `mirror.errors.SourceError` and `ContentError`."""

    def head_manifest(self, reference: Reference) -> Digest | None: ...
    def reading(self, reference: Reference) -> ManifestReader: ...
    def open_blob(
        self, reference: Reference, blob: Descriptor, *, offset: int = 0, length: int | None = None
    ) -> BlobStream:
        """*length* bytes from *offset* on, or all that follow; a server without ranges sends the whole blob."""
