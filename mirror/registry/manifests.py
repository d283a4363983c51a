"""Read single manifests, and those of one image within the registry's pull limit."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from mirror.errors import DigestMismatch, InvalidDigest, ManifestUnknown, QuotaExhausted, SizeInvalid
from mirror.http.response import Headers
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_MANIFEST_SIZE, refuse_schema_1
from mirror.oci.media_types import ACCEPTED
from mirror.oci.reference import Reference
from mirror.registry.authorized_request import AuthorizedRequests
from mirror.registry.pull_limit import PullAccounts
from mirror.registry.retry import Retries
from mirror.registry.throttle import Account, Breaker, ConcurrencyLimiter, QuotaGrant, QuotaLedger, RequestSlot, Sleep

_ACCEPT: Final = {"Accept": ", ".join(ACCEPTED)}
_NO_HEAD_SECONDS: Final = 900.0
"""Seconds for which a registry is sent no HEAD after its HEADs were of no use. A GET costs little there."""
_MAX_RECORDS: Final = 512
_FRESH_SECONDS: Final = 1.0
"""After a refusal by the ledger, no new HEAD is sent if the registry's last statement is younger than this."""
_UNDECIDED_SECONDS: Final = 5.0
"""Seconds to wait for the responses to other readers, which decide whether enough of the quota is left."""
_POLL_SECONDS: Final = 0.1
_SNIFFING: Final = threading.Lock()
"""Damaged bodies are parsed one at a time: JSON needs ten times its size."""
_LOG = structlog.get_logger(__name__)
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest's exact bytes, their Content-Type (None if absent) and their digest."""

    body: bytes
    media_type: str | None
    digest: Digest


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What a HEAD says of a manifest. Only the digest is certain to be there."""

    digest: Digest
    media_type: str | None = None
    size: int | None = None


class HeadSupport:
    """Whether a registry's HEADs of manifests are of use.

    Combines what this process and others found out. Safe to share between threads.

    A HEAD that fails proves little: the tag may be missing. Only if a GET of the same name works afterwards are the
    registry's HEADs of no use.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._lock = threading.Lock()
        self._failed: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._useless_until: OrderedDict[str, float] = OrderedDict()

    def is_useless(self, registry: str) -> bool:
        """Whether to send no HEAD for now.

        Call it after the breaker has permitted the request.
        """
        with self._lock:
            if monotonic() < self._useless_until.get(registry, 0.0):
                return True
        return self._breaker.is_headless(registry)

    def head_failed(self, reference: Reference) -> None:
        """Record that a HEAD of *reference* failed, named no digest, or was skipped."""
        if self.is_useless(reference.registry):
            return
        with self._lock:
            _put(self._failed, _name(reference), None)

    def get_worked(self, reference: Reference) -> None:
        """Record that a GET of *reference* worked."""
        with self._lock:
            if _name(reference) not in self._failed:
                return
            del self._failed[_name(reference)]
            _put(self._useless_until, reference.registry, monotonic() + _NO_HEAD_SECONDS)
        self._breaker.note_headless(reference.registry)
        _LOG.info("HEADs are of no use at this registry", registry=reference.registry, skipped_for=_NO_HEAD_SECONDS)


class ManifestSource:
    """Sends HEAD and GET requests for single manifests.

    Safe to share between threads.
    """

    def __init__(
        self,
        requests: AuthorizedRequests,
        limiter: ConcurrencyLimiter,
        head_support: HeadSupport,
        accounts: PullAccounts,
        retries: Retries,
        sleep: Sleep,
    ) -> None:
        self.head_support = head_support
        self._requests = requests
        self._limiter = limiter
        self._accounts = accounts
        self._retries = retries
        self._sleep = sleep

    def head(self, reference: Reference) -> ManifestHead | None:
        """Return what the reference shows now, by a HEAD. None if that fails, or names no digest.

        A HEAD is a shortcut. Many registries answer it with an error where a GET works, so it is tried once. Of its
        failures only a 401 and a 429 are raised. If a GET works afterwards, HEADs are skipped for a while.
        """
        head = self._retries.run_optional(reference, partial(self._head_once, reference))
        if head is None:
            self.head_support.head_failed(reference)
        return head

    def get_once(self, reference: Reference, expect: Descriptor | None, unit: str | None) -> FetchedManifest:
        """GET a manifest in one attempt. Check it against all named digests and *expect*.

        *unit* was reserved for it. Raises as `RegistryManifests.get` does.
        """
        started = monotonic()
        with (
            RequestSlot(self._limiter, reference.registry, "manifests", self._sleep),
            self._requests.send("GET", reference, f"manifests/{reference.target}", _ACCEPT).response as response,
        ):
            self._accounts.record(reference, response, started, unit)
            if response.status == 429 and (exhausted := self._accounts.quota_error(reference, response)):
                raise exhausted
            self._requests.require_status(response, reference, self._unknown(reference), what=_what(reference))
            named = (reference.digest, expect and expect.digest, content_digest(response.headers))
            body = response.read(MAX_MANIFEST_SIZE, _what(reference))
            media_type = response.headers.media_type
        digests = [digest for digest in named if digest]
        try:
            _require_match(body, digests, expect)
        except (DigestMismatch, SizeInvalid):
            with _SNIFFING:
                refuse_schema_1(body, media_type, what=str(reference))
            raise
        return FetchedManifest(body, media_type, digests[0] if digests else Digest.of(body))

    def _head_once(self, reference: Reference) -> ManifestHead | None:
        """Send the HEAD. Return None instead if HEADs are of no use and a GET is free."""
        if self.head_support.is_useless(reference.registry) and self._accounts.account(reference) is None:
            return None
        started = monotonic()
        with RequestSlot(self._limiter, reference.registry, "manifests", self._sleep):
            response = self._requests.send("HEAD", reference, f"manifests/{reference.target}", _ACCEPT).response
            if response.status == 200:
                response.discard()
            else:  # a server without HEAD sends a body, which would be read as the next response
                response.close()
            self._accounts.record(reference, response, started)
            self._requests.require_status(response, reference, self._unknown(reference), what=_what(reference))
            digest, headers = content_digest(response.headers), response.headers
            return ManifestHead(digest, headers.media_type, headers.content_length) if digest else None

    def _unknown(self, reference: Reference) -> ManifestUnknown:
        return ManifestUnknown(str(reference), logged_in=self._accounts.username(reference) is not None)


class RegistryManifests:
    """Reads the manifests of one image within the registry's pull limit.

    It is a context manager. On exit it gives back the quota that it did not use. If an image needs more quota than is
    left, its cost is remembered. The next try reserves all of it before it reads the root. Otherwise the roots of many
    images could use up every window.
    """

    def __init__(
        self,
        source: ManifestSource,
        quota: QuotaLedger,
        accounts: PullAccounts,
        retries: Retries,
        sleep: Sleep,
        reference: Reference,
    ) -> None:
        self._source = source
        self._quota = quota
        self._accounts = accounts
        self._retries = retries
        self._sleep = sleep
        self._reference = reference
        self._lock = threading.RLock()
        self._id = secrets.token_hex(8)
        self._count = 0  # units named so far
        self._free: list[str] = []  # of these, reserved and not spent
        self._needed = 0  # units for the whole image, as far as known

    def is_limited(self) -> bool:
        """Whether the registry has stated a pull limit that counts these reads."""
        with self._lock:
            return self._account() is not None

    def get(self, reference: Reference, *, expect: Descriptor | None = None) -> FetchedManifest:
        """Return a manifest, checked against all named digests and *expect*.

        It has at most 4 MiB. Raises QuotaExhausted before a request is sent. Raises ManifestUnknown, DigestMismatch,
        SizeInvalid, MediaTypeUnsupported for Docker schema 1, AnswerTooLarge, and what every request raises.
        """
        manifest = self._retries.run(reference, partial(self._get_once, reference, expect))
        self._source.head_support.get_worked(reference)
        return manifest

    def get_hinted(self, reference: Reference) -> FetchedManifest | None:
        """Return a manifest by a digest that only a HEAD has named, in one attempt.

        None if that fails. The tag may show another manifest then. Raises QuotaExhausted, and a registry's demand for a
        login or a wait.
        """
        return self._retries.run_optional(reference, partial(self._get_once, reference, None))

    def expect(self, count: int) -> None:
        """Reserve the quota for *count* more manifests.

        Raises QuotaExhausted, spending nothing, if too little is left.
        """
        with self._lock:
            self._needed = self._count - len(self._free) + count
            missing = count - len(self._free)
            if missing > 0:
                self._reserve(missing)

    def close(self) -> None:
        """Give back the quota that was not spent."""
        with self._lock:
            account = self._accounts.account(self._reference)
            if account and self._free:
                self._quota.give_back(account, self._free)
            self._free = []

    def _get_once(self, reference: Reference, expect: Descriptor | None) -> FetchedManifest:
        return self._source.get_once(reference, expect, self._take_unit())

    def _take_unit(self) -> str | None:
        with self._lock:
            if not self._free:
                self._reserve(self._first_cost() if self._count == 0 else 1)
            return self._free.pop() if self._free else None

    def _first_cost(self) -> int:
        digest = self._reference.digest
        return self._quota.cost(str(digest)) if digest and self._account() else 1

    def _account(self) -> Account | None:
        """Return the account that is counted.

        A HEAD finds it if only other clients know of a limit.
        """
        if not self._accounts.is_known(self._reference) and self._quota.is_limited(self._reference.registry):
            self._source.head(self._reference)
        return self._accounts.account(self._reference)

    def _reserve(self, count: int) -> None:
        account = self._account()
        if account is None:
            self._count += count
            return
        units = [f"{self._id}:{n}" for n in range(self._count, self._count + count)]
        grant = self._decision(account, units, asked=False)
        if not grant.granted and not grant.undecided and grant.told_ago > _FRESH_SECONDS:
            self._source.head(self._reference)
            grant = self._decision(account, units, asked=True)
        if not grant.granted:
            if self._reference.digest and self._needed > 1:
                self._quota.note_cost(str(self._reference.digest), self._needed)
            raise QuotaExhausted(self._reference.registry, grant.wait)
        self._count += count
        self._free += units

    def _decision(self, account: Account, units: Sequence[str], *, asked: bool) -> QuotaGrant:
        """Return the ledger's decision.

        Wait a moment for it while it depends on responses to other readers.
        """
        until = monotonic() + _UNDECIDED_SECONDS
        while (grant := self._quota.reserve(account, units, asked=asked)).undecided and monotonic() < until:
            self._sleep(_POLL_SECONDS)
        return grant

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _what(reference: Reference) -> str:
    return f"the manifest of {reference}"


def _require_match(body: bytes, digests: Sequence[Digest], expect: Descriptor | None) -> None:
    if expect and len(body) != expect.size:
        raise SizeInvalid(str(expect.digest), expect.size, len(body))
    for digest in digests:
        if (actual := Digest.of(body, digest.algorithm)) != digest:
            raise DigestMismatch(str(digest), str(actual))


def content_digest(headers: Headers) -> Digest | None:
    """Return the Docker-Content-Digest.

    None if it is absent or unusable: it is a hint, and the bytes decide.
    """
    try:
        return Digest.parse(headers.only_element("Docker-Content-Digest") or "")
    except InvalidDigest:
        return None


def _name(reference: Reference) -> tuple[str, str, str]:
    return reference.registry, reference.repository, reference.target


def _put(records: OrderedDict[K, V], key: K, value: V) -> None:
    """Put a record, and drop the oldest one if there are too many."""
    records[key] = value
    records.move_to_end(key)
    if len(records) > _MAX_RECORDS:
        records.popitem(last=False)
