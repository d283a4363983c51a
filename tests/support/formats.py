"""Every format that is mirrored, one row each: what it is, and the bytes of an example."""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mirror.oci import media_types
from mirror.oci.digest import Digest
from tests.support import images
from tests.support.images import OCI_CONFIG, OCI_LAYER, TestImage

HELM_CONFIG: Final = "application/vnd.cncf.helm.config.v1+json"
HELM_CHART: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
HELM_PROVENANCE: Final = "application/vnd.cncf.helm.chart.provenance.v1.prov"
CACHE_CONFIG: Final = "application/vnd.buildkit.cacheconfig.v0"
CONFIG: Final = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}'
EMPTY: Final = b"{}"


@dataclass(frozen=True)
class Format:
    """An example of a format. *stock_refuses* says why a stock registry cannot hold it as a source, empty if it can.

    With *needs* another image is in the repository already.
    """

    image: TestImage
    stock_refuses: str = ""
    needs: TestImage | None = None


@dataclass(frozen=True)
class _Part:
    """A config or a layer, and further fields of its descriptor. With *is_absent* its registry does not have it."""

    media_type: str
    content: bytes
    algorithm: str = "sha256"
    fields: Mapping[str, Any] | None = None
    is_absent: bool = False

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content, self.algorithm)

    @property
    def descriptor(self) -> dict[str, Any]:
        named = {"mediaType": self.media_type, "digest": str(self.digest), "size": len(self.content)}
        return {**named, **(self.fields or {})}


def zstd(content: bytes) -> bytes:
    """Return *content* as a zstd frame with one raw block (RFC 8878, 3.1.1)."""
    size = len(content)
    header = bytes([0xA0]) + size.to_bytes(4, "little")  # a single segment, and four bytes of its size
    return b"\x28\xb5\x2f\xfd" + header + (size << 3 | 1).to_bytes(3, "little") + content


def _bytes(seed: str, size: int = 3000) -> bytes:
    return random.Random(seed).randbytes(size)


def _manifest(
    *layers: _Part, config: _Part | None = None, algorithm: str = "sha256", indent: int | None = None, **fields: Any
) -> TestImage:
    config = config or _Part(OCI_CONFIG, CONFIG)
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
        **fields,
    }
    body = json.dumps({name: value for name, value in document.items() if value is not None}, indent=indent).encode()
    parts = {part.digest: part.content for part in (config, *layers) if not part.is_absent}
    return TestImage(body, media_types.OCI_MANIFEST, parts, algorithm=algorithm)


def _index(
    children: Sequence[TestImage], entries: Sequence[Mapping[str, Any]] = (), algorithm: str = "sha256", **fields: Any
) -> TestImage:
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [*(child.descriptor for child in children), *entries],
        **fields,
    }
    body = json.dumps({name: value for name, value in document.items() if value is not None}).encode()
    below = {child.digest: child for child in children}
    return TestImage(body, media_types.OCI_INDEX, children=below, algorithm=algorithm)


def _artifact(*layers: _Part, **fields: Any) -> TestImage:
    return _manifest(*layers, config=_Part(images.EMPTY_CONFIG, EMPTY), **fields)


def _build_cache() -> TestImage:
    """What BuildKit's ``--cache-to type=registry`` writes without ``image-manifest=true``: an index of blobs."""
    layer = _Part(f"{OCI_LAYER}+gzip", gzip.compress(_bytes("cached"), mtime=0))
    config = _Part(CACHE_CONFIG, json.dumps({"layers": [{"blob": str(layer.digest)}], "records": []}).encode())
    made = _index((), [layer.descriptor, config.descriptor])
    return TestImage(made.body, made.media_type, {part.digest: part.content for part in (layer, config)})


def _attested() -> TestImage:
    child = images.image(images.layer("attested"))
    return images.with_attestation(images.index(("linux/amd64", child)), child)


def _embedded(content: bytes) -> Mapping[str, str]:
    return {"data": base64.b64encode(content).decode()}


_NO_SHA512: Final = "it computes every digest of a manifest with SHA-256"
_BASE: Final = images.image(images.layer("signed"))
_LAYER: Final = _Part(OCI_LAYER, _bytes("a layer"))
_SHA512_CHILD: Final = _manifest(
    _Part(OCI_LAYER, _bytes("sha512"), "sha512"), config=_Part(OCI_CONFIG, CONFIG, "sha512"), algorithm="sha512"
)
_CHART: Final = _Part(HELM_CHART, gzip.compress(_bytes("chart"), mtime=0))
_NOTE: Final = _Part("text/plain", b"a note")
_EMPTY_LAYER: Final = _Part(images.EMPTY_CONFIG, EMPTY, fields=_embedded(EMPTY))

FORMATS: Final[Mapping[str, Format]] = {
    "oci-image": Format(images.image(images.layer("plain"), images.layer("gzip", compressed=True))),
    "docker-image": Format(images.image(images.layer("docker", compressed=True), docker=True)),
    "docker-list": Format(
        images.index(("linux/amd64", images.image(images.layer("listed", compressed=True), docker=True)), docker=True)
    ),
    "no-media-type": Format(images.image(images.layer("unstated"), stated=False)),
    "index-no-media-type": Format(_index([_manifest(_LAYER, mediaType=None)], mediaType=None)),
    "nested-index": Format(_index([_index([images.three_platforms("nested")]), _manifest(_LAYER)])),
    "empty-index": Format(_index(())),
    "index-artifact-type": Format(
        _index([_artifact(_NOTE, artifactType="application/vnd.example.note")], artifactType="application/vnd.example")
    ),
    "zstd-layer": Format(_manifest(_Part(f"{OCI_LAYER}+zstd", zstd(_bytes("zstd"))))),
    "encrypted-layer": Format(_manifest(_Part(f"{OCI_LAYER}+gzip+encrypted", _bytes("encrypted")))),
    "empty-layer": Format(_manifest(_Part(OCI_LAYER, b""), _LAYER)),
    "duplicate-layers": Format(_manifest(_LAYER, _LAYER, _Part(f"{OCI_LAYER}+gzip", _LAYER.content), _LAYER)),
    "config-not-json": Format(_manifest(_LAYER, config=_Part(OCI_CONFIG, b"\xff\xfe not JSON"))),
    "unknown-fields": Format(_manifest(_LAYER, indent=3, annotations={"a": "ü", "b": ""}, unknown=[1, {"a": None}])),
    "embedded-data": Format(
        _manifest(_LAYER, _Part("text/plain", b"note", fields=_embedded(b"note")), config=_EMPTY_LAYER)
    ),
    "only-embedded-data": Format(
        _manifest(_LAYER, _Part("text/plain", b"only here", fields=_embedded(b"only here"), is_absent=True)),
        stock_refuses="it wants every blob of a manifest",
    ),
    "sha512-blobs": Format(
        _manifest(_Part(OCI_LAYER, _bytes("512"), "sha512"), config=_Part(OCI_CONFIG, CONFIG, "sha512"))
    ),
    "sha512-manifest": Format(_SHA512_CHILD, _NO_SHA512),
    "sha512-index": Format(_index([_SHA512_CHILD, _manifest(_LAYER)], algorithm="sha512"), _NO_SHA512),
    "build-cache": Format(_build_cache()),
    "build-attestation": Format(_attested()),
    "helm-chart": Format(
        _manifest(
            _CHART, _Part(HELM_PROVENANCE, b"signed"), config=_Part(HELM_CONFIG, b'{"name": "chart", "version": "1"}')
        )
    ),
    "artifact": Format(_artifact(_NOTE, artifactType="application/vnd.example.note")),
    "artifact-empty-layer": Format(_artifact(_EMPTY_LAYER, artifactType="application/vnd.example.mark")),
    "artifact-no-layers": Format(_artifact(artifactType="application/vnd.example.mark")),
    "artifact-layers-missing": Format(_artifact(artifactType="application/vnd.example.mark", layers=None)),
    "subject": Format(images.artifact("application/vnd.example.signature", b"signature", subject=_BASE), needs=_BASE),
    "wasm": Format(
        _manifest(
            _Part("application/wasm", b"\0asm\1\0\0\0"), config=_Part("application/vnd.wasm.config.v0+json", CONFIG)
        )
    ),
}
