"""Send single HTTP requests: guarded, bounded, and without following redirects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Final, Self
from urllib.parse import urlsplit

from urllib3 import PoolManager, Timeout

from mirror import __version__
from mirror.http.address_guard import AddressGuard
from mirror.http.deadlines import OnCancel, PendingRequest, current_deadline, never_canceled
from mirror.http.failures import waiting_for_server
from mirror.http.guarded_connections import CONNECT_SECONDS, Resolve, pool_classes, resolve
from mirror.http.response import Headers, Response

READ_SECONDS: Final = 30.0
"""Between two pieces of a response, not for all of it."""
_CONNECTIONS: Final = 32
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII)
_OWN_HEADERS: Final = {"User-Agent": f"image-mirror/{__version__}", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port (RFC 6454). Credentials belong to one origin."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse the origin of an http or https URL.

        Raises ValueError unless it has a plain host and no user. A backslash, a blank or a non-ASCII letter in the host
        is refused. Parsers interpret those differently, and the host that is checked must be the one that is connected
        to.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _AUTHORITY.fullmatch(parts.netloc):
            raise ValueError("not an http or https URL with a plain host")
        if parts.netloc not in url:
            raise ValueError("the host has control characters in it")
        return cls(parts.scheme, parts.hostname.lower().rstrip("."), parts.port or _default_port(parts.scheme))

    @property
    def authority(self) -> str:
        """Host and port, as a setting names them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.host if self.port == _default_port(self.scheme) else f"{self.host}:{self.port}"


class Transport:
    """A pool of guarded connections. Safe to share between threads."""

    def __init__(
        self,
        guard: AddressGuard,
        *,
        resolve: Resolve = resolve,
        ca_certs: str | None = None,
        on_cancel: OnCancel = never_canceled,
    ) -> None:
        """Call *on_cancel* for each wait with a function that ends it: see `OnCancel`."""
        self._on_cancel = on_cancel
        self._pools = PoolManager(
            num_pools=64,
            maxsize=_CONNECTIONS,
            ca_certs=ca_certs,
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=False,
        )
        self._pools.pool_classes_by_scheme = pool_classes(guard, resolve)

    def request(
        self, method: str, url: str, headers: Mapping[str, str], *, server: str, body: bytes | None = None
    ) -> Response:
        """Send one request and wait for the head of its response.

        *server* is the name that errors use. Raises AddressNotAllowed, SourceUnreachable, SourceTooSlow,
        CertificateInvalid, PlainHttpNotAllowed or TlsExpected. Raises SourceFailed if the URL cannot be parsed, or if
        the response is not HTTP.
        """
        request = PendingRequest(current_deadline())
        with waiting_for_server(server, "the request", request, self._on_cancel, url=url):
            raw = self._pools.request(
                method,
                url,
                headers={**_OWN_HEADERS, **headers},
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        return Response(
            server, raw.status, Headers(raw.headers), raw, request, self._on_cancel, url, "Range" in headers
        )

    @contextmanager
    def holding(self, lock: Lock, server: str) -> Iterator[None]:
        """Hold a lock that another thread may hold during a request.

        Wait no longer than for a request of our own.
        """
        request = PendingRequest(current_deadline())
        if not lock.acquire(blocking=False):
            with waiting_for_server(server, "another request", request, self._on_cancel):
                while not lock.acquire(timeout=request.poll_seconds()):
                    continue
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        self._pools.clear()


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
