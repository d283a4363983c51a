"""A proxy in front of the service that takes the pushes of a conformance suite.

The mirror is read-only, and a suite makes up its content at random. So the content cannot be mirrored before the suite
starts. The proxy writes what is pushed into the bucket with the code of a worker. It passes every GET and HEAD on to
the service and changes nothing. So each check of pull and content discovery reaches the real service.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import urllib3

from mirror.errors import ContentError, ImageNotHeld, InvalidInput
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import Index, Manifest, parse_manifest
from mirror.oci.verification import verify
from mirror.storage.provenance import ImageProvenance
from mirror.wiring import Core
from tests.api.seeded_catalog import JOB, MIRRORED_AT

_OF_THE_CONNECTION: Final = frozenset({"connection", "date", "host", "keep-alive", "server", "transfer-encoding"})
_DEFAULT_TYPE: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class PushedContent:
    """What a suite pushes, written into the bucket as a worker writes it."""

    core: Core

    def store_blob(self, repository: str, digest: Digest, content: bytes) -> None:
        """Store a blob and link it. Raises DigestMismatch."""
        self.core.blobs.put(verify(content, Descriptor(_DEFAULT_TYPE, digest, len(content))), content)
        self.core.links.link_layer(repository, digest)

    def publish(
        self, repository: str, reference: str, body: bytes, media_type: str, tags: Sequence[str] = ()
    ) -> ManifestContent:
        """Publish a manifest under a tag, or under a digest and *tags*.

        A referrer is also listed under its subject's fallback tag. Raises InvalidInput for a malformed reference and
        ContentError for a manifest that is damaged.
        """
        digest = Digest.parse(reference) if ":" in reference else Digest.of(body)
        name = LocalImage(repository, digest=digest) if ":" in reference else LocalImage(repository, reference)
        content = _content(digest, body, media_type)
        for one in (name, *(LocalImage(repository, tag) for tag in tags)):
            self._publish(one, content)
        if content.parsed.subject:
            self._list_referrer(repository, content.parsed.subject.digest, content)
        return content

    def _publish(self, name: LocalImage, root: ManifestContent) -> None:
        [change] = self.core.changes.take_numbers([(name, "conformance")])
        origin = ImageProvenance("registry.example/conformance:1", root.descriptor.digest, MIRRORED_AT, JOB)
        image = Image((*self._children(name.repository, root), root))
        self.core.publisher.publish(change, self.core.reader.as_held(image, name.repository), origin)

    def _children(self, repository: str, root: ManifestContent) -> list[ManifestContent]:
        if not isinstance(root.parsed, Index):
            return []
        found: dict[Digest, ManifestContent] = {}
        for child in root.parsed.children:
            try:
                image = self.core.reader.image(LocalImage(repository, digest=child.digest))
            except ImageNotHeld:
                continue  # a sparse index
            found |= {one.descriptor.digest: one for one in image.manifests}
        return list(found.values())

    def _list_referrer(self, repository: str, subject: Digest, referrer: ManifestContent) -> None:
        """Add *referrer* to the index under the fallback tag, as a client does for a registry without the API."""
        tag = f"{subject.algorithm}-{subject.hex[:64]}"
        try:
            listed = json.loads(self.core.reader.manifest(LocalImage(repository, tag)).body)["manifests"]
        except ImageNotHeld:
            listed = []
        entry = _referrer_descriptor(referrer)
        entries = [*(one for one in listed if one["digest"] != entry["digest"]), entry]
        index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}
        body = json.dumps(index).encode()
        self._publish(LocalImage(repository, tag), _content(Digest.of(body), body, media_types.OCI_INDEX))


def _content(digest: Digest, body: bytes, media_type: str) -> ManifestContent:
    parsed = parse_manifest(body, media_type, what=str(digest))
    descriptor = Descriptor(parsed.media_type, digest, len(body))
    verify(body, descriptor)
    return ManifestContent(descriptor, body, parsed)


def _referrer_descriptor(referrer: ManifestContent) -> dict[str, Any]:
    """Return the entry of a referrer (distribution spec, "Pushing Manifests with Subject")."""
    parsed = referrer.parsed
    artifact_type = parsed.artifact_type or (parsed.config.media_type if isinstance(parsed, Manifest) else "")
    annotations = json.loads(referrer.body).get("annotations")
    return {
        "mediaType": referrer.descriptor.media_type,
        "digest": str(referrer.descriptor.digest),
        "size": referrer.descriptor.size,
        **({"artifactType": artifact_type} if artifact_type else {}),
        **({"annotations": annotations} if annotations else {}),
    }


class PushingProxy(ThreadingHTTPServer):
    """Listens on loopback. Reads go to the service at *service_url*, pushes into *content*."""

    daemon_threads = True

    def __init__(self, service_url: str, content: PushedContent) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service_url = service_url
        self.content = content
        self.pool = urllib3.PoolManager(retries=False, timeout=30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=partial(self.serve_forever, 0.01), name="pushing-proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self.pool.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PushingProxy

    def do_GET(self) -> None:
        """Pass a GET or a HEAD on."""
        body = self._body()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_CONNECTION}
        reply = self.server.pool.request(
            self.command,
            f"{self.server.service_url}{self.path}",
            body=body or None,
            headers=headers,
            redirect=False,
            decode_content=False,
        )
        kept = {name: value for name, value in reply.headers.items() if name.lower() not in _OF_THE_CONNECTION}
        self._answer(reply.status, kept, reply.data)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Open an upload. It has no state: the PUT that follows has the whole blob."""
        self._body()
        path = urlsplit(self.path).path
        self._answer(202, {"Location": f"{path.rstrip('/')}/1"})

    def do_PUT(self) -> None:
        """Store a blob or a manifest."""
        body = self._body()
        parts = urlsplit(self.path)
        try:
            headers = self._store(parts.path, parse_qs(parts.query), body)
        except (ContentError, InvalidInput) as error:
            problem = {"errors": [{"code": error.code, "message": error.message}]}
            self._answer(400, {"Content-Type": "application/json"}, json.dumps(problem).encode())
        else:
            self._answer(201, headers)

    def do_DELETE(self) -> None:
        """Refuse: content management is not of a mirror."""
        self._body()
        self._answer(405, {})

    do_PATCH = do_DELETE

    def _store(self, path: str, query: Mapping[str, list[str]], body: bytes) -> dict[str, str]:
        head, _, reference = path.removeprefix("/v2/").rpartition("/")
        if head.endswith("/blobs/uploads"):
            repository, digest = head.removesuffix("/blobs/uploads"), Digest.parse(query["digest"][0])
            self.server.content.store_blob(repository, digest, body)
            return {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": str(digest)}
        repository = head.removesuffix("/manifests")
        media_type = self.headers.get("Content-Type", "")
        tags = query.get("tag", [])
        stored = self.server.content.publish(repository, reference, body, media_type, tags)
        headers = {"Location": path, "Docker-Content-Digest": str(stored.descriptor.digest)}
        if tags:
            headers["OCI-Tag"] = ", ".join(tags)
        if subject := stored.parsed.subject:
            headers["OCI-Subject"] = str(subject.digest)
        return headers

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do not log. The suite's own report has the requests."""
