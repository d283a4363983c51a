"""An S3 endpoint on a real socket that responds as the test says. For what no real server can be made to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mirror.storage.bucket import Bucket


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client_port: int


@dataclass(frozen=True, slots=True)
class Response:
    """``cut``: the connection ends after the headers and *body*, whatever Content-Length says.

    ``silent``: it ends without a response.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False


def error(status: int, code: str, message: str = "the vendor's own words") -> Response:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message><Resource>/secret</Resource></Error>"
    return Response(status, body.encode(), {"Content-Type": "application/xml"})


Script = Callable[[Request], Response]


class ScriptedS3:
    """Responds to each request with what *script* returns for it. ``requests`` are all requests, oldest first."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, dict(self.headers.items()), body, self.client_address[1])
                outer.requests.append(request)
                response = outer.script(request)
                if response.silent:
                    self.close_connection = True
                    return
                self.send_response(response.status)
                for name, value in {"Content-Length": str(len(response.body)), **response.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if request.method != "HEAD":
                    self.wfile.write(response.body)
                self.close_connection = response.cut

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_: Any) -> None:
                """The test's output is for the test."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[ScriptedS3]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


OpenBucket = Callable[[Script], tuple[Bucket, ScriptedS3]]


def in_sequence(*responses: Response) -> Script:
    """Return one response after the other, and then the last one again and again."""
    left = list(responses)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]
