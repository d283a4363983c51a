"""Log one line per request, after its last byte: with the bytes that were sent, not those that were announced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog

from service.http import request_id

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_LOG = structlog.get_logger(__name__)


class AccessLog:
    """Wraps a WSGI application. The query is not logged, because some clients put secrets there."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        line = _Line(environ)

        def noting(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            line.status = int(status.partition(" ")[0])
            return start_response(status, headers, *exc_info)

        return _Counted(self._application(environ, noting), line)


class _Line:
    def __init__(self, environ: WSGIEnvironment) -> None:
        self.status = 0
        self.request_id = request_id.begin(environ)
        self._method = environ["REQUEST_METHOD"]
        self._path = quote(environ.get("PATH_INFO", "").encode("latin-1"), safe="/:@+,=")
        self._started = monotonic()

    def write(self, sent: int) -> None:
        _LOG.info(
            "request",
            method=self._method,
            path=self._path,
            status=self.status,
            bytes=sent,
            seconds=round(monotonic() - self._started, 4),
            request_id=self.request_id,
        )


class _Counted:
    """A body that counts what is sent. The server calls `close` even if the client has gone (PEP 3333)."""

    def __init__(self, body: Iterable[bytes], line: _Line) -> None:
        self._body = body
        self._line = line
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            self._sent += len(chunk)
            yield chunk

    def close(self) -> None:
        try:
            if close := getattr(self._body, "close", None):
                close()
        finally:
            self._line.write(self._sent)
