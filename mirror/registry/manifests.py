"""Reading the manifests of one image under a pull limit: what it will cost is reserved before it is spent."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Final, Protocol, Self

from mirror.errors import QuotaExhausted
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.pull_limit import LimitReader
from mirror.registry.throttle import Account, PullLimits, Verdict, Wait

_FRESH: Final = 1.0
"""Seconds for which a refusal of the ledger needs no new HEAD."""
_PATIENCE: Final = 5.0
_LOOK_AGAIN: Final = 0.1


@dataclass(frozen=True, slots=True)
class RemoteManifest:
    """A manifest's exact bytes, the Content-Type they came with (None if none did), and the digest they have."""

    body: bytes
    media_type: str | None
    digest: Digest


class Fetch(Protocol):
    """One manifest read, with *take* called for every attempt."""

    def __call__(
        self, reference: Reference, expect: Descriptor | None, take: Callable[[], str | None]
    ) -> RemoteManifest: ...


class FetchOnce(Protocol):
    """One manifest read in one attempt; None where it failed in a way that says nothing about other requests."""

    def __call__(self, reference: Reference, take: Callable[[], str | None]) -> RemoteManifest | None: ...


class ManifestReader:
    """Reads manifests of the image *reference* names. What it reserved and did not spend is given back at the end.

    An image that did not fit into what was left is remembered with its cost, so that the next try reserves all of it at
    once, before its root is read: otherwise the roots of many images could use up every window.
    """

    def __init__(
        self,
        limits: PullLimits,
        reader: LimitReader,
        reference: Reference,
        *,
        peek: Callable[[Reference], object],
        fetch: Fetch,
        fetch_once: FetchOnce,
        wait: Wait,
    ) -> None:
        self._limits = limits
        self._reader = reader
        self._reference = reference
        self._peek = peek
        self._fetch = fetch
        self._fetch_once = fetch_once
        self._wait = wait
        self._lock = threading.RLock()
        self._id = secrets.token_hex(8)
        self._count = 0  # units named so far
        self._free: list[str] = []  # of these, reserved and not spent
        self._needed = 0  # units for the whole image, as far as that is known

    def is_limited(self) -> bool:
        """Whether the registry has told of a pull limit that counts these reads."""
        with self._lock:
            return self._account() is not None

    def get(self, reference: Reference, *, expect: Descriptor | None = None) -> RemoteManifest:
        """A manifest by tag or digest, at most 4 MiB, checked against every digest that was named, and *expect*.

        Raises QuotaExhausted before the registry is asked, ManifestUnknown, DigestMismatch, SizeInvalid,
        AnswerTooLarge, and what all requests raise.
        """
        return self._fetch(reference, expect, self._take)

    def get_hinted(self, reference: Reference) -> RemoteManifest | None:
        """A manifest by a digest that only a HEAD has named. None where it cannot be had so: its tag may show another.

        It is tried once. Raises QuotaExhausted, and what a login or a limit of the registry demands.
        """
        return self._fetch_once(reference, self._take)

    def expect(self, count: int) -> None:
        """So many more manifests will be read: raises QuotaExhausted, nothing spent on them, if too few are left."""
        with self._lock:
            self._needed = self._count - len(self._free) + count
            missing = count - len(self._free)
            if missing > 0:
                self._reserve(missing)

    def _take(self) -> str | None:
        with self._lock:
            if not self._free:
                self._reserve(self._first_cost() if self._count == 0 else 1)
            return self._free.pop() if self._free else None

    def _first_cost(self) -> int:
        digest = self._reference.digest
        return self._limits.cost(str(digest)) if digest and self._account() else 1

    def _account(self) -> Account | None:
        """Whose limit counts. A HEAD tells, where nothing was heard and others have heard of a limit."""
        if not self._reader.has_heard(self._reference) and self._limits.is_limited(self._reference.registry):
            self._peek(self._reference)
        return self._reader.account(self._reference)

    def _reserve(self, count: int) -> None:
        account = self._account()
        if account is None:
            self._count += count
            return
        units = [f"{self._id}:{n}" for n in range(self._count, self._count + count)]
        verdict = self._decision(account, units, asked=False)
        if not verdict.granted and not verdict.undecided and verdict.told_ago > _FRESH:
            self._peek(self._reference)
            verdict = self._decision(account, units, asked=True)
        if not verdict.granted:
            if self._reference.digest and self._needed > 1:
                self._limits.note_cost(str(self._reference.digest), self._needed)
            raise QuotaExhausted(self._reference.registry, verdict.wait)
        self._count += count
        self._free += units

    def _decision(self, account: Account, units: Sequence[str], *, asked: bool) -> Verdict:
        """The ledger's verdict, when other readers' answers that are under way have come, or have taken too long."""
        patient_until = monotonic() + _PATIENCE
        while (verdict := self._limits.reserve(account, units, asked=asked)).undecided and monotonic() < patient_until:
            self._wait(_LOOK_AGAIN)
        return verdict

    def close(self) -> None:
        """Give back what was not spent."""
        with self._lock:
            account = self._reader.account(self._reference)
            if account and self._free:
                self._limits.give_back(account, self._free)
            self._free = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
