"""The images of the source registry, which are generated and pushed."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.shapes import ImageSpec, LayerSpec, Shape
from mirror.oci import media_types

_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_BLOCK: Final = 1024 * 1024
_STORED: Final = 0
"""zlib's level without compression."""
_GZIP: Final = 31
"""zlib's window bits for the gzip format."""


@dataclass(frozen=True, slots=True)
class Blob:
    media_type: str
    digest: str
    size: int
    diff_id: str = ""

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image in the source registry."""

    repository: str
    tag: str
    digest: str
    blobs: tuple[Blob, ...]


@dataclass(frozen=True, slots=True)
class LoadedShape:
    """A shape whose images are in the source registry."""

    shape: Shape
    images: tuple[SourceImage, ...]

    @property
    def blobs(self) -> dict[str, int]:
        """Return the size of each distinct blob, by digest."""
        return {blob.digest: blob.size for image in self.images for blob in image.blobs}

    @property
    def bytes_to_copy(self) -> int:
        return 0 if self.shape.warm else sum(self.blobs.values())


def layer_bytes(spec: LayerSpec, diff_id: hashlib._Hash) -> Iterator[bytes]:
    """Generate a layer, a tar in a gzip, in pieces.

    The same seed gives the same bytes, and the layer is never whole in memory.

    *diff_id* hashes the tar. The gzip is real because a tool that pushes compresses plain layers. The content is random
    because compressible content would favour some tools.
    """
    packer = zlib.compressobj(_STORED, wbits=_GZIP)
    for piece in _tar(spec):
        diff_id.update(piece)
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _tar(spec: LayerSpec) -> Iterator[bytes]:
    entry = tarfile.TarInfo(f"data/{spec.seed}")
    entry.size = spec.size
    yield entry.tobuf(tarfile.PAX_FORMAT)
    yield from _random(spec)
    padding = -spec.size % tarfile.BLOCKSIZE
    yield b"\0" * (padding + 2 * tarfile.BLOCKSIZE)


def _random(spec: LayerSpec) -> Iterator[bytes]:
    """Generate random bytes faster than the disk: zeros, encrypted with AES-CTR."""
    key = hashlib.sha256(spec.seed.encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    left = spec.size
    while left:
        piece = stream.update(bytes(min(left, _BLOCK)))
        left -= len(piece)
        yield piece


class Loader:
    """Pushes shapes into the registry at *url*.

    A layer that several images share is pushed once.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(retries=False, timeout=120)
        self._layers: dict[LayerSpec, tuple[str, Blob]] = {}

    def load(self, shape: Shape) -> LoadedShape:
        return LoadedShape(shape, tuple(self._image(spec) for spec in shape.images))

    def _image(self, spec: ImageSpec) -> SourceImage:
        layers = tuple(self._layer(spec.repository, layer) for layer in spec.layers)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": [f"IMAGE={spec.repository}:{spec.tag}"]},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            }
        ).encode()
        stored = self._push(spec.repository, _CONFIG, iter([config]))
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": stored.descriptor,
                "layers": [layer.descriptor for layer in layers],
            }
        ).encode()
        url = f"{self._url}/v2/{spec.repository}/manifests/{spec.tag}"
        self._request("PUT", url, 201, body=body, headers={"Content-Type": media_types.OCI_MANIFEST})
        return SourceImage(spec.repository, spec.tag, f"sha256:{hashlib.sha256(body).hexdigest()}", (stored, *layers))

    def _layer(self, repository: str, spec: LayerSpec) -> Blob:
        if known := self._layers.get(spec):
            owner, blob = known
            mount = f"{self._url}/v2/{repository}/blobs/uploads/?mount={blob.digest}&from={owner}"
            self._request("POST", mount, 201)
            return blob
        diff_id = hashlib.sha256()
        pushed = self._push(repository, _LAYER, layer_bytes(spec, diff_id))
        blob = Blob(pushed.media_type, pushed.digest, pushed.size, f"sha256:{diff_id.hexdigest()}")
        self._layers[spec] = (repository, blob)
        return blob

    def _push(self, repository: str, media_type: str, pieces: Iterator[bytes]) -> Blob:
        sent = _Counted(pieces)
        upload = self._request("POST", f"{self._url}/v2/{repository}/blobs/uploads/", 202)
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._request("PATCH", upload.headers["Location"], 202, body=sent, headers=headers)
        location = answer.headers["Location"]
        self._request("PUT", f"{location}{'&' if '?' in location else '?'}digest={sent.digest}", 201)
        return Blob(media_type, sent.digest, sent.size)

    def _request(self, method: str, url: str, expected: int, **options: Any) -> urllib3.BaseHTTPResponse:
        answer = self._http.request(method, url, **options)
        if answer.status != expected:
            raise RuntimeError(f"the source returns {answer.status} to {method} {url}: {answer.data[:500]!r}")
        return answer


class _Counted(Iterable[bytes]):
    """Pieces of a body that are hashed and counted while they are sent."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._hash = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._hash.update(piece)
            self.size += len(piece)
            yield piece

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
