"""Redirects: where they may lead, what stays behind, and where a blob was found to lie.

`Authorization` stays behind for good at the first other origin (GHSA-vh4v-2xq2-g5cg), and what asks for one from there
on gets none. Targets are presigned URLs as a rule: they are never logged, and their query is worth a password.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final
from urllib.parse import urljoin

from mirror.errors import MirrorError, PlainHttpNotAllowed, SourceFailed
from mirror.http.headers import announced_length
from mirror.http.transport import Answer, Origin, Transport
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.endpoints import Endpoints
from mirror.registry.response_errors import ServerFailed

TARGET_SECONDS: Final = 15 * 60.0
"""How long a target is reused: presigned URLs live for about 20 minutes."""
TARGETS: Final = 512
REFUSAL_SECONDS: Final = 10 * 60.0
"""How long no range is asked of an origin that refused one."""
REDIRECTS: Final = 5
REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})
_NOT_ABOUT_RANGES: Final = frozenset({401, 404, 407, 408, 410, 425, 429})


@dataclass(frozen=True, slots=True)
class Followed:
    """The answer at the end of all redirects; *target* is its URL where that is of another origin than asked."""

    answer: Answer
    target: str | None = field(default=None, repr=False)


class Redirects:
    """Sends requests and follows their redirects, each through the guard."""

    def __init__(self, transport: Transport, endpoints: Endpoints) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._refusals = RangeRefusals()

    def follow(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str | None, registry: str
    ) -> Followed:
        """Request *url*; raises SourceFailed where a redirect leads to what is not permitted, or to no end."""
        asked, left = url, False
        home: Origin | None = None  # made out at the first redirect, which most answers are not
        origin = home
        for _ in range(REDIRECTS + 1):
            answer = self._request(method, url, _with(headers, authorization), registry)
            if left and answer.status in (401, 403):
                answer.close()
                raise ServerFailed(registry, f"the target of its redirect answered {answer.status}")
            location = answer.headers.get("Location")
            if answer.status not in REDIRECTING or not location:
                return Followed(answer, None if origin == home else url)
            answer.dismiss()
            home = home or Origin.of(asked)
            url, origin = self._redirected(registry, url, location)
            if origin != home:
                authorization, left = None, True
        raise SourceFailed(registry, f"it redirects more than {REDIRECTS} times")

    def at_target(self, url: str, headers: Mapping[str, str], registry: str) -> Answer | None:
        """A 200 or 206 from where `follow` ended before; None for anything else: the target has expired, or is gone."""
        try:
            answer = self._transport.request("GET", url, self._borne(url, headers), registry=registry)
        except MirrorError:
            return None
        if answer.status in (200, 206):
            return answer
        answer.dismiss()
        return None

    def ask_without_ranges(self, answer: Answer) -> None:
        """From now on, ask whoever sent this answer for whole blobs: it cannot be asked for ranges."""
        self._refusals.remember(Origin.of(answer.url))

    def _request(self, method: str, url: str, headers: Mapping[str, str], registry: str) -> Answer:
        """Send one request. Where it is refused with a Range, send it once without, and remember what helped."""
        sent = self._borne(url, headers)
        answer = self._transport.request(method, url, sent, registry=registry)
        if "Range" not in sent or not _may_refuse_the_range(answer.status):
            return answer
        answer.dismiss()
        answer = self._transport.request(method, url, _without_range(sent), registry=registry)
        if answer.status < 400 and not _is_shorter_than_asked(answer, sent["Range"]):
            self.ask_without_ranges(answer)
        return answer

    def _borne(self, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers, without a Range that the URL's origin is known to refuse."""
        known = "Range" in headers and self._refusals.knows(Origin.of(url))
        return _without_range(headers) if known else headers

    def _redirected(self, registry: str, url: str, location: str) -> tuple[str, Origin]:
        """Where *location* leads from *url*; raises SourceFailed where we may not go."""
        try:
            url = urljoin(url, location)
            origin = Origin.of(url)
        except ValueError:
            raise SourceFailed(registry, "it redirects to what is no http or https URL") from None
        if not self._endpoints.permits(registry, origin):
            raise PlainHttpNotAllowed(
                registry,
                f"it redirects to {origin} without TLS",
                hint=f"If plain HTTP is acceptable there, add '{origin.authority}' to MIRROR_INSECURE_REGISTRIES.",
            )
        return url, origin


class RangeRefusals:
    """Which origins refuse requests with a Range: a few hundred, for some minutes each.

    Registries may refuse ranges while the storage they redirect to gives them, and the other way round. So it is the
    origin that counts, not the registry.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: OrderedDict[Origin, float] = OrderedDict()

    def knows(self, origin: Origin) -> bool:
        with self._lock:
            return self._until.get(origin, 0.0) > self._clock()

    def remember(self, origin: Origin) -> None:
        with self._lock:
            self._until[origin] = self._clock() + REFUSAL_SECONDS
            self._until.move_to_end(origin)
            if len(self._until) > TARGETS:
                self._until.popitem(last=False)


class BlobTargets:
    """Where the blobs of a repository were last redirected to: a few hundred, the least recently used go first.

    A target was given to whoever may read that repository, so it serves that repository's readers alone: a client has
    one credential per repository, and these targets never leave it.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[str, str, Digest], tuple[str, float]] = OrderedDict()

    def get(self, reference: Reference, digest: Digest) -> str | None:
        key = _key(reference, digest)
        with self._lock:
            url, until = self._found.get(key, ("", 0.0))
            if not url:
                return None
            if self._clock() >= until:
                del self._found[key]
                return None
            self._found.move_to_end(key)
            return url

    def remember(self, reference: Reference, digest: Digest, url: str) -> None:
        key = _key(reference, digest)
        with self._lock:
            self._found[key] = url, self._clock() + TARGET_SECONDS
            self._found.move_to_end(key)
            if len(self._found) > TARGETS:
                self._found.popitem(last=False)

    def forget(self, reference: Reference, digest: Digest) -> None:
        with self._lock:
            self._found.pop(_key(reference, digest), None)


def _key(reference: Reference, digest: Digest) -> tuple[str, str, Digest]:
    return reference.registry, reference.repository, digest


def _may_refuse_the_range(status: int) -> bool:
    """Whether the same request without its Range may be answered: servers use any of these statuses for that."""
    return status == 501 or (400 <= status < 500 and status not in _NOT_ABOUT_RANGES)


def _is_shorter_than_asked(answer: Answer, asked: str) -> bool:
    """Whether all there is ends before the range that was refused: rightly so, since the blob was described wrongly."""
    last = int(asked.rpartition("-")[2])
    length = announced_length(answer.headers)
    return answer.status == 200 and length is not None and length <= last


def _without_range(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Range"}


def _with(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)
