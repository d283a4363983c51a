"""Images for tests, made on the spot: real tar layers, configs, manifests and indexes. Nothing is ever downloaded."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urljoin

import urllib3

from mirror.oci import media_types
from mirror.oci.digest import Digest

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@dataclass(frozen=True)
class Layer:
    """A layer's bytes as they are stored, and its digest before compression."""

    media_type: str
    content: bytes = field(repr=False)
    diff_id: str = ""

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content)


@dataclass(frozen=True)
class TestImage:
    """A manifest or an index, with everything below it by digest."""

    __test__ = False

    body: bytes = field(repr=False)
    media_type: str
    blobs: Mapping[Digest, bytes] = field(default_factory=dict, repr=False)
    children: Mapping[Digest, TestImage] = field(default_factory=dict, repr=False)
    algorithm: str = "sha256"

    @property
    def digest(self) -> Digest:
        return Digest.of(self.body, self.algorithm)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": len(self.body)}

    def all_blobs(self) -> dict[Digest, bytes]:
        found = dict(self.blobs)
        for child in self.children.values():
            found |= child.all_blobs()
        return found

    def all_manifests(self) -> list[TestImage]:
        """Children first, this one last."""
        return [*(m for child in self.children.values() for m in child.all_manifests()), self]


def layer(seed: str, size: int = 2000, *, compressed: bool = False) -> Layer:
    """A tar with one file of *size* random bytes, always the same for one seed."""
    content = random.Random(seed).randbytes(size)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo(f"data/{seed}")
        entry.size = size
        archive.addfile(entry, io.BytesIO(content))
    plain = tar.getvalue()
    if compressed:
        return Layer(f"{OCI_LAYER}+gzip", gzip.compress(plain, mtime=0), str(Digest.of(plain)))
    return Layer(OCI_LAYER, plain, str(Digest.of(plain)))


def image(
    *layers: Layer,
    platform: str = "linux/amd64",
    docker: bool = False,
    foreign: Sequence[dict[str, Any]] = (),
    stated: bool = True,
    created: datetime | None = None,
) -> TestImage:
    """Make a single image. *docker* makes it schema 2. *stated* puts its mediaType in. *foreign* are added layers.

    *created* is when it says that it was created.
    """
    os, architecture, *variant = platform.split("/")
    config = json.dumps(
        {
            "architecture": architecture,
            "os": os,
            **({"variant": variant[0]} if variant else {}),
            **({"created": created.isoformat()} if created else {}),
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        }
    ).encode()
    media_type = media_types.DOCKER_MANIFEST if docker else media_types.OCI_MANIFEST
    types = (DOCKER_CONFIG, DOCKER_LAYER) if docker else (OCI_CONFIG, None)
    body = json.dumps(
        {
            "schemaVersion": 2,
            **({"mediaType": media_type} if stated or docker else {}),
            "config": {"mediaType": types[0], "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [
                {"mediaType": types[1] or one.media_type, "digest": str(one.digest), "size": len(one.content)}
                for one in layers
            ]
            + list(foreign),
        }
    ).encode()
    return TestImage(body, media_type, {Digest.of(config): config, **{one.digest: one.content for one in layers}})


def index(*children: tuple[str | None, TestImage], docker: bool = False) -> TestImage:
    """An index over images or indexes, each with a platform or none."""
    media_type = media_types.DOCKER_LIST if docker else media_types.OCI_INDEX
    entries = []
    for platform, child in children:
        entry = child.descriptor
        if platform:
            os, architecture, *variant = platform.split("/")
            entry["platform"] = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        entries.append(entry)
    body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    return TestImage(body, media_type, children={child.digest: child for _, child in children})


def with_attestation(base: TestImage, of: TestImage, *, seed: str = "attestation") -> TestImage:
    """Return the index *base* with one more child, which attests its child *of*, as BuildKit writes it."""
    attestation = image(layer(seed), platform="unknown/unknown")
    document = json.loads(base.body)
    entry = attestation.descriptor | {
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": str(of.digest),
        },
    }
    document["manifests"].append(entry)
    children = {**base.children, attestation.digest: attestation}
    return TestImage(json.dumps(document).encode(), base.media_type, base.blobs, children)


def three_platforms(seed: str) -> TestImage:
    """An index of amd64, arm64 and arm/v7 images that share one layer."""
    shared = layer(f"{seed}-shared")
    platforms = ("linux/amd64", "linux/arm64", "linux/arm/v7")
    return index(*((p, image(shared, layer(f"{seed}-{p.replace('/', '-')}"), platform=p)) for p in platforms))


def artifact(artifact_type: str, content: bytes, *, subject: TestImage | None = None) -> TestImage:
    """What cosign or ORAS push: the empty config, one blob, perhaps the image that it is about (image spec 1.1)."""
    config = b"{}"
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": {"mediaType": EMPTY_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [{"mediaType": artifact_type, "digest": str(Digest.of(content)), "size": len(content)}],
            **({"subject": subject.descriptor} if subject else {}),
        }
    ).encode()
    return TestImage(body, media_types.OCI_MANIFEST, {Digest.of(config): config, Digest.of(content): content})


def with_foreign_layer(base: TestImage, content: bytes, *, media_type: str = FOREIGN_LAYER, url: str = "") -> TestImage:
    """Return *base* with one more layer, of a foreign type, whose *content* its registry holds."""
    document = json.loads(base.body)
    entry = {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}
    document["layers"].append(entry | ({"urls": [url]} if url else {}))
    return TestImage(json.dumps(document).encode(), base.media_type, {**base.blobs, Digest.of(content): content})


def foreign_layer(seed: str) -> dict[str, Any]:
    """A descriptor of a layer that only its publisher distributes."""
    digest = Digest.of(seed.encode())
    return {"mediaType": FOREIGN_LAYER, "digest": str(digest), "size": 1234, "urls": ["https://example.com/layer"]}


def push(pushed: TestImage, registry_url: str, repository: str, tag: str) -> None:
    """Upload into a real registry over plain HTTP, as a client does: blobs, children, then the tag."""
    with urllib3.PoolManager(retries=False) as pool:
        for digest, content in pushed.all_blobs().items():
            push_blob(pool, f"{registry_url}/v2/{repository}", digest, content)
        for manifest in pushed.all_manifests():
            name = tag if manifest is pushed else str(manifest.digest)
            push_manifest(pool, f"{registry_url}/v2/{repository}", name, manifest)


def push_blob(pool: urllib3.PoolManager, repository_url: str, digest: Digest, content: bytes) -> None:
    started = pool.request("POST", f"{repository_url}/blobs/uploads/")
    assert started.status == 202, started.data
    location = urljoin(repository_url, started.headers["Location"])
    joint = "&" if "?" in location else "?"
    done = pool.request("PUT", f"{location}{joint}digest={digest}", body=content)
    assert done.status == 201, done.data


def push_manifest(pool: urllib3.PoolManager, repository_url: str, name: str, manifest: TestImage) -> None:
    headers = {"Content-Type": manifest.media_type}
    done = pool.request("PUT", f"{repository_url}/manifests/{name}", body=manifest.body, headers=headers)
    assert done.status == 201, done.data
