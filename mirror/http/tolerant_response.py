"""http.client's response, made tolerant of real servers and bounded in time."""

from __future__ import annotations

import socket
from http.client import HTTPException, LineTooLong
from http.client import HTTPResponse as RawResponse
from typing import Any, Final

from mirror.http.deadlines import DeadlineReader, current_request

_LINE: Final = 65536
_MAX_INTERIM: Final = 100
_MAX_INTERIM_BYTES: Final = 256 * 1024
_SWITCHING: Final = 101


class ProtocolViolation(HTTPException):
    """A response that breaks HTTP.

    *reason* completes the sentence "The registry … failed:".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TolerantResponse(RawResponse):
    """Reads a head as RFC 9110 and 9112 allow it, and a body into a given buffer.

    http.client alone skips ``100 Continue`` only. It understands neither ``Content-Length: 5, 5`` nor
    ``Transfer-Encoding: Identity, chunked``, and would wait for the end of such a body until its timeout. The methods
    overridden here have been the same since Python 3.0. Tests would notice a change.

    While `into` is set, `read` fills that buffer instead of a new one. urllib3 calls `read` and keeps its own error
    handling, its counting and the return of the connection to its pool.
    """

    fp: Any
    headers: Any
    length: int | None
    chunked: bool
    into: memoryview | None = None

    def __init__(self, connected: socket.socket, *args: Any, **options: Any) -> None:
        self.reader = DeadlineReader(connected, current_request().deadline)
        super().__init__(self.reader, *args, **options)  # type: ignore[arg-type]  # http.client calls only `makefile`

    def read(self, amt: int | None = None) -> Any:
        if self.into is None:
            return super().read(amt)
        return self.into[: self.readinto(self.into)]

    def begin(self) -> None:
        """Read the head. Find the end of the body where http.client could not."""
        super().begin()
        if self.chunked or self.length is not None:
            return
        transfer = {name.lower() for name in self._elements("transfer-encoding")} - {"identity"}
        if transfer - {"chunked"}:
            raise ProtocolViolation("it sent a Transfer-Encoding that was not asked for")
        if transfer:
            self.chunked, self.chunk_left = True, None
        else:
            self._agree_on_length()
        if self.chunked or self.length is not None:
            self.will_close = self._check_close()  # type: ignore[attr-defined]  # not in the stubs

    def _read_status(self) -> tuple[str, int, str]:
        """Read the final status line, after a limited number of interim (1xx) responses."""
        skipped = 0
        for _ in range(_MAX_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # http.client's own
            if status == _SWITCHING:
                raise ProtocolViolation("it switched protocols, which was not asked for")
            if status >= 200:
                return version, status, reason
            skipped += self._skip_head(_MAX_INTERIM_BYTES - skipped)
        raise ProtocolViolation(f"it sent more than {_MAX_INTERIM} interim answers (1xx)")

    def _skip_head(self, limit: int) -> int:
        """Read header lines up to the blank one, and return the number of bytes."""
        count = 0
        while True:
            line = self.fp.readline(_LINE + 1)
            if len(line) > _LINE:
                raise LineTooLong("header line")
            count += len(line)
            if line in (b"\r\n", b"\n", b""):
                return count
            if count > limit:
                raise ProtocolViolation(f"it sent interim answers (1xx) of more than {_MAX_INTERIM_BYTES} bytes")

    def _agree_on_length(self) -> None:
        """Accept a length that one line repeats. urllib3 compares different lines."""
        lengths = {int(text) for text in self._elements("content-length") if _is_length(text)}
        if len(lengths) > 1:
            raise ProtocolViolation("it sent several Content-Length headers that differ")
        if lengths:
            self.length = lengths.pop()

    def _elements(self, name: str) -> list[str]:
        lines = self.headers.get_all(name) or []
        return [text for line in lines for element in line.split(",") if (text := element.strip())]


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
