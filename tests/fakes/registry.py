"""A scripted registry: honest by default, and as dishonest as a test tells it to be.

It speaks HTTP on real loopback sockets. With `tokens` it demands Docker Hub's token flow from a server of its own; with
`redirect_blobs` it sends blob reads to another origin, as registries with a CDN do. Every request is recorded.
Slowness is scripted with gates, never with sleeps.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol, Self
from urllib.parse import parse_qs, urlsplit

from mirror.oci.digest import Digest
from tests.images import TestImage

_PATH: Final = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/]+)")
_PIECE: Final = 64 * 1024


@dataclass(frozen=True)
class Request:
    """One request as it came; *server* is ``api``, ``token`` or ``cdn``."""

    server: str
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """An answer that a script may change before it is sent. ``body`` is bytes, or an iterator of pieces."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    cut_after: int | None = None
    """Bytes after which the connection is closed, whatever Content-Length said."""
    gate: tuple[int, threading.Event] | None = None
    """Bytes after which sending waits until the event is set."""


class Content(Protocol):
    """A blob too large for memory: its size, and its bytes from any place."""

    @property
    def size(self) -> int: ...
    def pieces(self, start: int) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Repeated:
    """*size* bytes of one repeated block: 1 GiB that needs no memory."""

    size: int
    block: bytes = bytes(range(256)) * 4096

    def pieces(self, start: int) -> Iterator[bytes]:
        position = start
        while position < self.size:
            offset = position % len(self.block)
            piece = self.block[offset : offset + self.size - position]
            yield piece
            position += len(piece)

    @property
    def digest(self) -> Digest:
        hasher = hashlib.sha256()
        for piece in self.pieces(0):
            hasher.update(piece)
        return Digest("sha256", hasher.hexdigest())


Script = Callable[[Request, Reply], Reply | None]
"""Given a request and the honest reply, another reply, or None for the honest one."""


@dataclass
class Tokens:
    """Docker Hub's token flow. *login* is the user and password that the token server accepts, None for anonymous."""

    login: tuple[str, str] | None = None
    expires_in: int | None = 300
    service: str = "registry.test"
    issued: dict[str, str] = field(default_factory=dict)

    def revoke(self) -> None:
        """Let every token that was issued be refused from now on."""
        self.issued.clear()


class FakeRegistry:
    """Use as a context manager. `url` is its API; `host` is what a reference calls it."""

    def __init__(self, *, tokens: Tokens | None = None, redirect_blobs: bool = False, ranges: bool = True) -> None:
        self.tokens = tokens
        self.redirect_blobs = redirect_blobs
        self.ranges = ranges
        self.basic: tuple[str, str] | None = None
        self.scripts: list[Script] = []
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._manifests: dict[tuple[str, str], TestImage] = {}
        self._blobs: dict[tuple[str, str], bytes | Content] = {}
        self._servers = {name: _Server(self, name) for name in ("api", "token", "cdn")}
        self._closing = threading.Event()

    # -- what a test does

    def __enter__(self) -> Self:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, args=(0.01,), name=f"fake-{server.name}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    @property
    def host(self) -> str:
        return self._host("api")

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def cdn_host(self) -> str:
        return self._host("cdn")

    def put(self, image: TestImage, repository: str, tag: str | None = None) -> None:
        """Hold an image with everything below it."""
        for manifest in image.all_manifests():
            self._manifests[repository, str(manifest.digest)] = manifest
        if tag:
            self._manifests[repository, tag] = image
        for digest, content in image.all_blobs().items():
            self._blobs[repository, str(digest)] = content

    def put_blob(self, repository: str, digest: Digest, content: bytes | Content) -> None:
        self._blobs[repository, str(digest)] = content

    def script(self, script: Script) -> None:
        """Ask *script* about every reply from now on; later scripts see what earlier ones made of it."""
        self.scripts.append(script)

    def log(self, server: str | None = None, *, method: str | None = None, path: str = "") -> list[Request]:
        """The requests so far, by server, method and a part of the path."""
        with self._lock:
            found = list(self.requests)
        return [r for r in found if server in (None, r.server) and method in (None, r.method) and path in r.path]

    # -- what the servers do

    def reply_to(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
        honest = {"api": self._api, "token": self._token, "cdn": self._cdn}
        reply = honest[request.server](request)
        for script in self.scripts:
            reply = script(request, reply) or reply
        return reply

    def wait_at(self, gate: threading.Event) -> None:
        """Wait for a gate, but not beyond the end of the test."""
        while not gate.wait(0.05):
            if self._closing.is_set():
                return

    def _host(self, name: str) -> str:
        return f"127.0.0.1:{self._servers[name].server_address[1]}"

    def _api(self, request: Request) -> Reply:
        match = _PATH.fullmatch(request.path)
        repository = match[1] if match else ""
        if refused := self._refusal(request, repository):
            return refused
        if not match:
            return Reply(200 if request.path == "/v2/" else 404)
        if match[2] == "manifests":
            return self._manifest(repository, match[3])
        if self.redirect_blobs and (repository, match[3]) in self._blobs:
            url = f"http://{self.cdn_host}/{repository}/{match[3]}?X-Amz-Signature=very-secret"
            return Reply(307, {"Location": url})
        return self._blob(request, repository, match[3])

    def _cdn(self, request: Request) -> Reply:
        if "Authorization" in request.headers:
            return Reply(400, body=b"Only one auth mechanism allowed")
        repository, _, digest = request.path.lstrip("/").rpartition("/")
        return self._blob(request, repository, digest)

    def _token(self, request: Request) -> Reply:
        assert self.tokens is not None
        scope = (request.query.get("scope") or [""])[0]
        given = request.headers.get("Authorization", "")
        if self.tokens.login:
            expected = "Basic " + base64.b64encode(":".join(self.tokens.login).encode()).decode()
            if given != expected:
                return Reply(401, body=b'{"details": "incorrect username or password"}')
        token = f"token-{len(self.tokens.issued)}-{scope}"
        self.tokens.issued[token] = scope
        answer: dict[str, Any] = {"token": token}
        if self.tokens.expires_in is not None:
            answer["expires_in"] = self.tokens.expires_in
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _refusal(self, request: Request, repository: str) -> Reply | None:
        given = request.headers.get("Authorization", "")
        if self.basic:
            expected = "Basic " + base64.b64encode(":".join(self.basic).encode()).decode()
            return None if given == expected else Reply(401, {"WWW-Authenticate": 'Basic realm="fake"'})
        if self.tokens is None:
            return None
        scope = f"repository:{repository}:pull"
        if self.tokens.issued.get(given.removeprefix("Bearer ")) == scope:
            return None
        realm = f'Bearer realm="http://{self._host("token")}/token",service="{self.tokens.service}",scope="{scope}"'
        return Reply(401, {"WWW-Authenticate": realm}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')

    def _manifest(self, repository: str, reference: str) -> Reply:
        found = self._manifests.get((repository, reference))
        if found is None:
            return Reply(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        headers = {"Content-Type": found.media_type, "Docker-Content-Digest": str(found.digest)}
        return Reply(200, headers, found.body)

    def _blob(self, request: Request, repository: str, digest: str) -> Reply:
        content = self._blobs.get((repository, digest))
        if content is None:
            return Reply(404, body=b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        size = len(content) if isinstance(content, bytes) else content.size
        asked = re.fullmatch(r"bytes=([0-9]+)-", request.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.ranges else 0
        headers = {"Content-Length": str(size - start), "Content-Type": "application/octet-stream"}
        if asked and self.ranges:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        body = content[start:] if isinstance(content, bytes) else content.pieces(start)
        return Reply(206 if asked and self.ranges else 200, headers, body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, registry: FakeRegistry, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = registry
        self.name = name

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """The registry keeps its own log."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        request = Request(
            self.server.name, self.command, parts.path, parse_qs(parts.query), dict(self.headers.items()), body
        )
        self._send(self.server.registry.reply_to(request))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        if isinstance(reply.body, bytes):
            reply.headers.setdefault("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        pieces = _sliced(reply.body) if isinstance(reply.body, bytes) else reply.body
        if reply.gate:
            before, gate = reply.gate
            pieces = _waiting(pieces, before, partial(self.server.registry.wait_at, gate))
        for piece in _until(pieces, reply.cut_after):
            self.wfile.write(piece)
            self.wfile.flush()
        self.close_connection = self.close_connection or reply.cut_after is not None


def _sliced(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _until(pieces: Iterator[bytes], end: int | None) -> Iterator[bytes]:
    """The first *end* bytes, or all of them."""
    left = end
    for piece in pieces:
        if left is None:
            yield piece
            continue
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return


def _waiting(pieces: Iterator[bytes], before: int, wait: Callable[[], None]) -> Iterator[bytes]:
    """All bytes, with a *wait* behind the first *before* of them."""
    left: int | None = before
    for piece in pieces:
        if left is None or len(piece) < left:
            left = None if left is None else left - len(piece)
            yield piece
            continue
        yield piece[:left]
        wait()
        yield piece[left:]
        left = None
