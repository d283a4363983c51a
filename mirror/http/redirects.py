"""Follow redirects: where they may lead, and which headers they drop.

At the first other origin the `Authorization` is dropped for good (GHSA-vh4v-2xq2-g5cg). A server that demands one after
that does not receive it. Targets are usually presigned URLs: they are never logged, and their query is as secret as a
password.
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
from mirror.http.failures import ServerFailed
from mirror.http.response import Response
from mirror.http.transport import Origin, Transport

MAX_REDIRECTS: Final = 5
REFUSAL_SECONDS: Final = 10 * 60.0
"""Seconds for which an origin that refused a Range is sent no other."""
MAX_REFUSALS: Final = 512
_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_NOT_ABOUT_RANGES: Final = frozenset({401, 404, 407, 408, 410, 425, 429})


def redirect_location(response: Response) -> str | None:
    """Return the Location of a redirect.

    None if the response is no redirect, or names no location.
    """
    return response.headers.get("Location") or None if response.status in _REDIRECT_STATUSES else None


@dataclass(frozen=True, slots=True)
class FinalResponse:
    """The response after all redirects.

    *target* is its URL if that belongs to another origin than the first URL.
    """

    response: Response
    target: str | None = field(default=None, repr=False)


class Redirects:
    """Sends requests and follows their redirects.

    Every request goes through the guard. A request with a Range that an origin refuses is sent again without it. Later
    requests to that origin have no Range.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._refusals = RangeRefusals()

    def follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        *,
        server: str,
        permits: Callable[[Origin], bool],
    ) -> FinalResponse:
        """Request *url* and follow its redirects to origins that *permits* allows.

        Raises SourceFailed if a redirect cannot be followed or if there are too many. Raises PlainHttpNotAllowed for an
        origin that is not permitted, and ServerFailed if another origin demands a login. Raises what
        `Transport.request` raises.
        """
        first, has_left = url, False
        home: Origin | None = None  # computed at the first redirect, because most responses are none
        origin = home
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(method, url, _with_authorization(headers, authorization), server)
            if has_left and response.status in (401, 403):
                response.close()
                raise ServerFailed(server, f"the target of its redirect answered {response.status}")
            location = redirect_location(response)
            if location is None:
                return FinalResponse(response, None if origin == home else url)
            response.discard()
            home = home or Origin.of(first)
            url, origin = _resolve(url, location, server, permits)
            if origin != home:
                authorization, has_left = None, True
        raise SourceFailed(server, f"it redirects more than {MAX_REDIRECTS} times")

    def get_target(self, url: str, headers: Mapping[str, str], server: str) -> Response | None:
        """GET the target where `follow` once ended.

        Returns a 200 or 206, None for anything else. Any other status means that the target has expired or is gone.
        """
        try:
            response = self._transport.request("GET", url, self._allowed(url, headers), server=server)
        except MirrorError:
            return None
        if response.status in (200, 206):
            return response
        response.discard()
        return None

    def stop_ranges(self, response: Response) -> None:
        """Send no more Range to the origin of *response*, which does not handle them."""
        self._refusals.remember(Origin.of(response.url))

    def _send(self, method: str, url: str, headers: Mapping[str, str], server: str) -> Response:
        """Send one request.

        If its Range is refused, send it without, and remember the origin if that helped.
        """
        sent = self._allowed(url, headers)
        response = self._transport.request(method, url, sent, server=server)
        if "Range" not in sent or not _may_refuse_the_range(response.status):
            return response
        response.discard()
        response = self._transport.request(method, url, _without_range(sent), server=server)
        if response.status < 400 and not _is_shorter_than_asked(response, sent["Range"]):
            self.stop_ranges(response)
        return response

    def _allowed(self, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers, without a Range that the URL's origin is known to refuse."""
        is_refused = "Range" in headers and self._refusals.knows(Origin.of(url))
        return _without_range(headers) if is_refused else headers


class RangeRefusals:
    """The origins that refuse requests with a Range, each for `REFUSAL_SECONDS`.

    At most `MAX_REFUSALS` are kept. A registry may refuse ranges while the storage that it redirects to serves them,
    and the other way round. So origins are remembered, not registries.
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
            if len(self._until) > MAX_REFUSALS:
                self._until.popitem(last=False)


def _resolve(url: str, location: str, server: str, permits: Callable[[Origin], bool]) -> tuple[str, Origin]:
    """Return where *location* leads from *url*.

    Raises SourceFailed or PlainHttpNotAllowed.
    """
    try:
        url = urljoin(url, location)
        origin = Origin.of(url)
    except ValueError:
        raise SourceFailed(server, "it redirects to what is no http or https URL") from None
    if not permits(origin):
        raise PlainHttpNotAllowed(
            server,
            f"it redirects to {origin} without TLS",
            hint=f"If plain HTTP is acceptable there, add '{origin.authority}' to MIRROR_INSECURE_REGISTRIES.",
        )
    return url, origin


def _may_refuse_the_range(status: int) -> bool:
    """Whether the same request may succeed without its Range.

    Servers use any of these statuses to refuse one.
    """
    return status == 501 or (400 <= status < 500 and status not in _NOT_ABOUT_RANGES)


def _is_shorter_than_asked(response: Response, asked: str) -> bool:
    """Whether the whole body ends before the range that was refused.

    Then the refusal was right.
    """
    last = int(asked.rpartition("-")[2])
    length = response.headers.content_length
    return response.status == 200 and length is not None and length <= last


def _without_range(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Range"}


def _with_authorization(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)
