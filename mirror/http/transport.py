"""One HTTP request at a time, as an upstream registry sees us: guarded, bounded, never redirected by the library."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from threading import Lock
from typing import Final, Self
from urllib.parse import urlsplit

import structlog
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError, ReadTimeoutError

from mirror import __version__
from mirror.errors import AnswerTooLarge, MirrorError, SourceTooSlow
from mirror.http import deadlines
from mirror.http.address_guard import AddressGuard
from mirror.http.deadlines import Call, Deadline, Wakers, calling, current_deadline, never_woken
from mirror.http.documents import decoded, require_no_html
from mirror.http.guarded_connections import CONNECT_SECONDS, GuardedConnection, Resolve, pool_classes, resolve
from mirror.http.headers import Headers, declared_length
from mirror.http.translation import translated, translation

READ_SECONDS: Final = 30.0
"""Between two pieces of an answer, not for all of it."""
_CONNECTIONS: Final = 32
_PIECE: Final = 64 * 1024
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII)
_ENDED = itertools.count(1)
"""How many requests this process has ended at their deadlines."""
_LOG = structlog.get_logger(__name__)
_OWN_HEADERS: Final = {"User-Agent": f"image-mirror/{__version__}", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what credentials are bound to (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """Raises ValueError for anything but an http or https URL with a plain host and without a user.

        A backslash, a blank or a letter outside ASCII in the host is refused: parsers differ about what it means, and
        the host that is judged must be the one that is connected to.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body has not been read yet. Close it; closing early drops the connection."""

    registry: str
    status: int
    headers: Headers
    response: BaseHTTPResponse = field(repr=False)
    call: Call = field(repr=False)
    wakers: Wakers = field(repr=False)
    url: str = field(repr=False)
    asked_for_range: bool = False

    def read(self, limit: int, what: str) -> bytes:
        """A document: the whole body without its Content-Encoding, at most *limit* bytes, within the deadline of the
        request.

        Raises AnswerTooLarge before more is read or decoded, AnswerTruncated, SourceTooSlow or SourceUnreachable if it
        was cut or too slow, SourceFailed if it cannot be decoded or a 200 is a page for people.
        """
        if declared_length(self.headers) > limit:
            raise AnswerTooLarge(self.registry, what, limit)
        pieces: list[bytes] = []
        total = 0
        with _exchanging(self.registry, what, self.call, self.wakers, carrier=self._connection):
            while piece := self.response.read(_PIECE, decode_content=False):
                pieces.append(piece)
                total += len(piece)
                if total > limit:
                    raise AnswerTooLarge(self.registry, what, limit)
        body = decoded(b"".join(pieces), self.headers, self.registry, what, limit)
        if self.status == 200:
            require_no_html(body, self.headers, self.registry, what)
        return body

    def read_at_once(self, limit: int, what: str) -> bytes:
        """As `read`, for a body that may tell something and is not needed: it gets half a second.

        Raises SourceTooSlow for one that does not come with its head.
        """
        self._hurry()
        return self.read(limit, what)

    def read_into(self, buffer: memoryview) -> int:
        """The next bytes of the body, as many as *buffer* takes, right into it; 0 behind the last one.

        Raises SourceTooSlow if they take more than a minute: ask for little at a time, 1 MiB, say.

        Measured 0.15 s of CPU per GB, against 0.21 for urllib3's own `read` and a copy.
        """
        connection = self._connection
        if connection is None:
            return 0  # it went back to its pool with the last byte
        answering, deadline = connection.answering, Deadline(deadlines.STALL_SECONDS)
        answering.into, answering.reader.deadline = buffer, deadline
        try:
            return len(self.response.read(len(buffer), decode_content=False))
        except ReadTimeoutError:
            raise _stopped(self.registry, "a blob", deadline) from None
        finally:
            answering.into = None

    def interrupt(self) -> None:
        """Wake whoever reads the body, from any thread; the read fails. Nothing happens once the body was read:
        the connection may serve another request by then.
        """
        if (connection := self._connection) is not None:
            connection.cut()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it."""
        self.response.close()
        self.response.release_conn()

    def dismiss(self) -> None:
        """Close an answer whose body tells nothing. Where it is short and comes at once, it is read, so that its
        connection can serve again; else that is closed.
        """
        with self, suppress(MirrorError), translated(self.registry, "an answer"):
            if declared_length(self.headers) <= _PIECE:
                self._hurry()
                self.response.read(_PIECE, decode_content=False)

    def _hurry(self) -> None:
        if (connection := self._connection) is not None:
            connection.answering.reader.deadline = Deadline(deadlines.DRAIN_SECONDS)

    @property
    def _connection(self) -> GuardedConnection | None:
        """None once the body was read, and the connection is back in its pool."""
        connection: GuardedConnection | None = self.response.connection  # type: ignore[assignment]  # all are here
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport:
    """A pool of guarded connections, to be shared by threads. Proxies and .netrc of the environment are ignored."""

    def __init__(
        self,
        guard: AddressGuard,
        *,
        resolve: Resolve = resolve,
        ca_certs: str | None = None,
        wakers: Wakers = never_woken,
    ) -> None:
        """*wakers* is told, for each wait, how to end it from another thread: see `Wakers`."""
        self._wakers = wakers
        self._pools = PoolManager(
            num_pools=64,
            maxsize=_CONNECTIONS,
            ca_certs=ca_certs,
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=False,
        )
        self._pools.pool_classes_by_scheme = pool_classes(guard, resolve)

    def request(
        self, method: str, url: str, headers: Mapping[str, str], *, registry: str, body: bytes | None = None
    ) -> Answer:
        """Send one request and wait for the answer's head. *registry* is the name that errors speak of.

        Raises AddressNotAllowed, SourceUnreachable, SourceTooSlow, CertificateInvalid, PlainHttpNotAllowed,
        TlsExpected, or SourceFailed for a URL that is none and for what is not HTTP.
        """
        call = Call(current_deadline())
        with _exchanging(registry, "the request", call, self._wakers, url=url):
            response = self._pools.request(
                method,
                url,
                headers={**_OWN_HEADERS, **headers},
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        head = Headers(response.headers)
        return Answer(registry, response.status, head, response, call, self._wakers, url, "Range" in headers)

    @contextmanager
    def holding(self, lock: Lock, registry: str) -> Iterator[None]:
        """Hold a lock that another thread may keep for as long as a request takes; wait no longer than for one."""
        call = Call(current_deadline())
        if not lock.acquire(blocking=False):
            with _exchanging(registry, "another request", call, self._wakers):
                while not lock.acquire(timeout=call.slice()):
                    continue
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        self._pools.clear()


@contextmanager
def _exchanging(
    registry: str, what: str, call: Call, wakers: Wakers, *, url: str = "", carrier: GuardedConnection | None = None
) -> Iterator[None]:
    """Wait for the registry within the call's deadline. *url* is what was requested, if the block makes a connection;
    *carrier* is the connection of an answer that has begun.
    """
    with wakers(call.cut), calling(call, carrier):
        try:
            yield
        except MirrorError:
            raise
        except (HTTPError, OSError, ValueError, HTTPException) as error:
            if call.deadline.has_passed():
                raise _out_of_time(registry, what, call.deadline) from None
            if carrier is not None and isinstance(error, ReadTimeoutError):
                raise _stopped(registry, what, call.deadline) from None
            raise translation(error, registry, what, url) from None


def _out_of_time(registry: str, what: str, deadline: Deadline) -> SourceTooSlow:
    """The error of a request that its deadline has ended, noted and counted."""
    _LOG.warning(
        "ended at its deadline", registry=registry, waited_for=what, seconds=deadline.seconds, so_far=next(_ENDED)
    )
    return SourceTooSlow(registry, f"it did not finish its answer within {deadline.seconds:.0f} s", out_of_time=True)


def _stopped(registry: str, what: str, deadline: Deadline) -> SourceTooSlow:
    """The error of a body that came too slowly, or no further; it may come on another connection."""
    if deadline.has_passed():
        return SourceTooSlow(registry, f"it sent next to nothing of {what} for {deadline.seconds:.0f} s")
    return SourceTooSlow(registry, f"it stopped in the middle of {what}")


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
