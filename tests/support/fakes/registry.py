"""A scripted registry on real sockets, with the faults that a test adds.

`tests.support.fakes.faults` has the faults.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, Self
from urllib.parse import urlencode

from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX
from tests.support.fakes.docker_hub import Tokens, basic
from tests.support.fakes.faults import Script
from tests.support.fakes.server import HttpServer, Reply, Request
from tests.support.images import TestImage

__all__ = ["FakeRegistry", "Reply", "Request", "Script", "Tokens"]

_PATH: Final = re.compile(r"/v2/(.+)/(manifests|blobs|tags|referrers)/([^/]+)")
_ABOUT_REFERRERS: Final = re.compile(r"/v2/.+/(referrers/[^/]+|tags/list|manifests/sha(256|512)-[^/]+)")
_RANGE: Final = re.compile(r"bytes=([0-9]+)-([0-9]*)")
_BLOCK: Final = 1024 * 1024
_NUMBER: Final = 8


class Content(Protocol):
    """The size of a blob, and its bytes from *start* to *end*."""

    @property
    def size(self) -> int: ...
    def pieces(self, start: int, end: int) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Synthetic:
    """*size* bytes that are generated from *seed* when they are read.

    So 1 GiB needs no memory.

    Each block of 1 MiB starts with its number. So no two blocks are equal, and blocks in the wrong order give another
    digest.
    """

    size: int
    seed: str = "synthetic"

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        number, skip = divmod(start, _BLOCK)
        position = start
        while position < end:
            block = number.to_bytes(_NUMBER, "big") + self._rest
            piece = block[skip : skip + end - position]
            yield piece
            position += len(piece)
            number, skip = number + 1, 0

    @cached_property
    def digest(self) -> Digest:
        hasher = hashlib.sha256()
        for piece in self.pieces(0, self.size):
            hasher.update(piece)
        return Digest("sha256", hasher.hexdigest())

    @cached_property
    def _rest(self) -> bytes:
        return random.Random(self.seed).randbytes(_BLOCK - _NUMBER)


class FakeRegistry:
    """A registry that records every request.

    Its servers ``api``, ``token`` and ``cdn`` have their own ports.

    With *referrers_api* it lists the manifests that have a digest as their subject. With *tokens* it requires Docker
    Hub's token flow. With *token_on_api* the token server is a path of the API, as at
    GHCR. With *redirect_blobs* it redirects blob reads to the CDN. Without *ranges* it ignores ``Range``. `url` is that
    of the API, and references name the registry by `host`.
    """

    def __init__(
        self,
        *,
        tokens: Tokens | None = None,
        token_on_api: bool = False,
        redirect_blobs: bool = False,
        ranges: bool = True,
        referrers_api: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.referrers_api = referrers_api
        self.referrers_page = 0
        """Referrers in a page of a list. 0 puts all of them in one page."""
        self.tokens = tokens
        self.token_on_api = token_on_api
        self.redirect_blobs = redirect_blobs
        self.ranges = ranges
        self.basic: tuple[str, str] | None = None
        self.scripts: list[Script] = []
        self.requests: list[Request] = []
        self._scheme = "https" if tls else "http"
        self._lock = threading.Lock()
        self._manifests: dict[tuple[str, str], TestImage] = {}
        self._blobs: dict[tuple[str, str], bytes | Content] = {}
        self._servers = {name: HttpServer(name, self._reply_to, tls=tls) for name in ("api", "token", "cdn")}
        self._running = ExitStack()

    def __enter__(self) -> Self:
        for server in self._servers.values():
            self._running.enter_context(server)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def host(self) -> str:
        return self._servers["api"].host

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}"

    @property
    def token_url(self) -> str:
        """Return the realm in its challenges."""
        host = self.host if self.token_on_api else self._servers["token"].host
        return f"{self._scheme}://{host}/token"

    @property
    def cdn_host(self) -> str:
        return self._servers["cdn"].host

    @property
    def connections(self) -> dict[str, int]:
        """Return how many connections each of its servers has accepted."""
        return {name: server.connections for name, server in self._servers.items()}

    def put(self, image: TestImage, repository: str, tag: str | None = None) -> None:
        """Store an image with all its manifests and blobs."""
        for manifest in image.all_manifests():
            self._manifests[repository, str(manifest.digest)] = manifest
        if tag:
            self._manifests[repository, tag] = image
        for digest, content in image.all_blobs().items():
            self._blobs[repository, str(digest)] = content

    def remove(self, repository: str, reference: str) -> None:
        """Forget a manifest under one of its names."""
        del self._manifests[repository, reference]

    def put_blob(self, repository: str, digest: Digest, content: bytes | Content) -> None:
        self._blobs[repository, str(digest)] = content

    def script(self, script: Script) -> None:
        """Let *script* change every reply from now on.

        Later scripts receive the result of earlier ones.
        """
        self.scripts.append(script)

    def log(self, server: str | None = None, *, method: str | None = None, path: str = "") -> list[Request]:
        """Return the requests so far, filtered by server, method and a part of the path.

        Requests that only look for referrers are left out, unless *path* names a part of theirs.
        """
        with self._lock:
            found = list(self.requests)
        if not any(part in path for part in ("tags", "referrers", "sha256-", "sha512-")):
            found = [request for request in found if not _ABOUT_REFERRERS.fullmatch(request.path)]
        return [r for r in found if server in (None, r.server) and method in (None, r.method) and path in r.path]

    def looks_for_referrers(self) -> list[Request]:
        """Return the requests so far that look for referrers: by the API, by a list of tags, or by a tag."""
        with self._lock:
            return [request for request in self.requests if _ABOUT_REFERRERS.fullmatch(request.path)]

    def _reply_to(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
        correct = {"api": self._api, "token": self._token, "cdn": self._cdn}
        reply = correct[request.server](request)
        for script in self.scripts:
            reply = script(request, reply) or reply
        return reply

    def _token(self, request: Request) -> Reply:
        return self.tokens.reply_to(request) if self.tokens else Reply(404)

    def _api(self, request: Request) -> Reply:
        if request.path == "/token":
            return self._token(request)
        match = _PATH.fullmatch(request.path)
        repository, kind, name = match.groups() if match else ("", "", "")
        scope = "registry:catalog:*" if request.path == "/v2/_catalog" else f"repository:{repository}:pull"
        if refused := self._refusal(request, scope):
            return refused
        if kind == "manifests":
            return self._manifest(repository, name)
        if kind == "blobs" and self.redirect_blobs and (repository, name) in self._blobs:
            target = f"{self._scheme}://{self.cdn_host}/{repository}/{name}?X-Amz-Signature=very-secret"
            return Reply(307, {"Location": target})
        if kind == "blobs":
            return self._blob(request, repository, name)
        if kind == "tags" and name == "list":
            return self._tags(repository)
        if kind == "referrers" and self.referrers_api:
            return self._referrers(request, repository, name)
        return Reply(200 if request.path == "/v2/" else 404)

    def _cdn(self, request: Request) -> Reply:
        """Serve blobs as S3 does: a presigned URL together with a login is an error."""
        if "Authorization" in request.headers:
            return Reply(400, body=b"Only one auth mechanism allowed")
        repository, _, digest = request.path.lstrip("/").rpartition("/")
        return self._blob(request, repository, digest)

    def _refusal(self, request: Request, scope: str) -> Reply | None:
        given = request.headers.get("Authorization", "")
        if self.basic:
            return None if given == basic(self.basic) else Reply(401, {"WWW-Authenticate": 'Basic realm="fake"'})
        if self.tokens is None or self.tokens.accepts(given, scope):
            return None
        challenge = self.tokens.challenge(self.token_url, scope)
        return Reply(401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')

    def _manifest(self, repository: str, reference: str) -> Reply:
        found = self._manifests.get((repository, reference))
        if found is None:
            return Reply(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        headers = {"Content-Type": found.media_type, "Docker-Content-Digest": str(found.digest)}
        return Reply(200, headers, found.body)

    def _tags(self, repository: str) -> Reply:
        """List all tags in one page, as CNCF distribution 2 does."""
        names = sorted(name for found, name in list(self._manifests) if found == repository)
        if not names:
            return Reply(404, body=b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
        tags = [name for name in names if ":" not in name]
        return Reply(200, {"Content-Type": "application/json"}, json.dumps({"name": repository, "tags": tags}).encode())

    def _referrers(self, request: Request, repository: str, subject: str) -> Reply:
        """List the manifests whose subject is *subject* ("Listing Referrers" of the distribution spec)."""
        wanted = request.query.get("artifactType", [""])[0]
        entries: dict[str, dict[str, object]] = {}
        for (found, _), manifest in list(self._manifests.items()):
            document = json.loads(manifest.body) if found == repository else {}
            if (document.get("subject") or {}).get("digest") != subject:
                continue
            kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
            if not wanted or kind == wanted:
                entry = {**manifest.descriptor, "artifactType": kind, "annotations": document.get("annotations")}
                entries[str(manifest.digest)] = {name: value for name, value in entry.items() if value}
        headers = {"Content-Type": OCI_INDEX} | ({"OCI-Filters-Applied": "artifactType"} if wanted else {})
        start = int(request.query.get("start", ["0"])[0])
        end = start + (self.referrers_page or len(entries))
        if end < len(entries):
            headers["Link"] = f'<{request.path}?{urlencode({"artifactType": wanted, "start": end})}>; rel="next"'
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries.values())[start:end]}
        return Reply(200, headers, json.dumps(body).encode())

    def _blob(self, request: Request, repository: str, digest: str) -> Reply:
        content = self._blobs.get((repository, digest))
        if content is None:
            return Reply(404, body=b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        size = len(content) if isinstance(content, bytes) else content.size
        wanted = _RANGE.fullmatch(request.headers.get("Range", "")) if self.ranges else None
        start = int(wanted[1]) if wanted else 0
        end = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
        if wanted and start >= end:
            return Reply(416, {"Content-Range": f"bytes */{size}"})
        headers = {"Content-Length": str(end - start), "Content-Type": "application/octet-stream"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        body = content[start:end] if isinstance(content, bytes) else content.pieces(start, end)
        return Reply(206 if wanted else 200, headers, body)
