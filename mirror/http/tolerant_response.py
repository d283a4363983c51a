"""http.client's answer, made to bear what servers and proxies really send before and in a head.

http.client skips ``100 Continue`` alone, and knows neither ``Content-Length: 5, 5`` nor ``Transfer-Encoding: Identity,
chunked``. It would wait for the end of such a body until its timeout.
"""

from __future__ import annotations

from http.client import HTTPResponse as RawResponse
from http.client import LineTooLong
from typing import Any, Final

from mirror.http.translation import ProtocolViolation

_LINE: Final = 65536
_MOST_INTERIM: Final = 100
_MOST_INTERIM_BYTES: Final = 256 * 1024
_SWITCHING: Final = 101


class TolerantResponse(RawResponse):
    """Reads a head as RFC 9110 and RFC 9112 allow it to be sent.

    It overrides parts of http.client that have been the same since Python 3.0, and has the tests to notice a change.
    """

    fp: Any
    headers: Any
    length: int | None
    chunked: bool

    def _read_status(self) -> tuple[str, int, str]:
        """The final status line, after any number of interim (1xx) answers that a sane server sends."""
        skipped = 0
        for _ in range(_MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # http.client's own
            if status == _SWITCHING:
                raise ProtocolViolation("it switched protocols, which was not asked for")
            if status >= 200:
                return version, status, reason
            skipped += self._skip_head(_MOST_INTERIM_BYTES - skipped)
        raise ProtocolViolation(f"it sent more than {_MOST_INTERIM} interim answers (1xx)")

    def _skip_head(self, limit: int) -> int:
        """Read header lines up to the blank one, and return their bytes."""
        count = 0
        while True:
            line = self.fp.readline(_LINE + 1)
            if len(line) > _LINE:
                raise LineTooLong("header line")
            count += len(line)
            if line in (b"\r\n", b"\n", b""):
                return count
            if count > limit:
                raise ProtocolViolation(f"it sent interim answers (1xx) of more than {_MOST_INTERIM_BYTES} bytes")

    def begin(self) -> None:
        """Read the head, and find out where the body ends, if http.client could not."""
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

    def _agree_on_length(self) -> None:
        """Take a length that is repeated in one line for one. Those of several lines are compared by urllib3."""
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
