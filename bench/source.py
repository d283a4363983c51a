"""The source registry's images: made on the spot, pushed as a client does, and remembered by their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import urllib3

from bench.content import gzipped
from bench.shapes import ImageSpec, LayerSpec, Shape
from mirror.oci import media_types

_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"


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
    """An image that the source holds."""

    repository: str
    tag: str
    digest: str
    blobs: tuple[Blob, ...]


@dataclass(frozen=True, slots=True)
class LoadedShape:
    """A shape whose images the source holds."""

    shape: Shape
    images: tuple[SourceImage, ...]

    @property
    def blobs(self) -> dict[str, int]:
        """Every different blob's size, by digest."""
        return {blob.digest: blob.size for image in self.images for blob in image.blobs}

    @property
    def bytes_to_copy(self) -> int:
        return 0 if self.shape.warm else sum(self.blobs.values())


class Loader:
    """Pushes shapes into the registry at *url*; a layer that several images share is made once."""

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
        self._ask("PUT", url, 201, body=body, headers={"Content-Type": media_types.OCI_MANIFEST})
        return SourceImage(spec.repository, spec.tag, f"sha256:{hashlib.sha256(body).hexdigest()}", (stored, *layers))

    def _layer(self, repository: str, spec: LayerSpec) -> Blob:
        if known := self._layers.get(spec):
            owner, blob = known
            mount = f"{self._url}/v2/{repository}/blobs/uploads/?mount={blob.digest}&from={owner}"
            self._ask("POST", mount, 201)
            return blob
        diff_id = hashlib.sha256()
        pushed = self._push(repository, _LAYER, gzipped(spec, diff_id))
        blob = Blob(pushed.media_type, pushed.digest, pushed.size, f"sha256:{diff_id.hexdigest()}")
        self._layers[spec] = (repository, blob)
        return blob

    def _push(self, repository: str, media_type: str, pieces: Iterator[bytes]) -> Blob:
        sent = _Counted(pieces)
        begun = self._ask("POST", f"{self._url}/v2/{repository}/blobs/uploads/", 202)
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._ask("PATCH", begun.headers["Location"], 202, body=sent, headers=headers)
        location = answer.headers["Location"]
        self._ask("PUT", f"{location}{'&' if '?' in location else '?'}digest={sent.digest}", 201)
        return Blob(media_type, sent.digest, sent.size)

    def _ask(self, method: str, url: str, expected: int, **options: Any) -> urllib3.BaseHTTPResponse:
        answer = self._http.request(method, url, **options)
        if answer.status != expected:
            raise RuntimeError(f"the source answers {answer.status} to {method} {url}: {answer.data[:500]!r}")
        return answer


class _Counted(Iterable[bytes]):
    """Pieces that are hashed and counted while they are sent."""

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
