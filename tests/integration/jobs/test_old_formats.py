"""Foreign layers and Docker schema 1 between real programs: a stock registry, the mirror, its service and skopeo."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import urllib3

from mirror.oci.digest import Digest
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.task import ForeignLayerCounts
from mirror.storage import layout
from tests.api.live_service import LiveService
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers import DockerRegistry, FilesystemStorage, RcloneS3, S3Storage, ValkeyServer, program

pytestmark = [pytest.mark.docker_registry, pytest.mark.skopeo]
BASE: Final = b"the base layer of an operating system" * 1000
WINDOWS: Final = images.with_foreign_layer(images.image(images.layer("ours")), BASE)
"""It has no URLs: skopeo would fetch the layer there, and never from a registry."""


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    return rclone_s3


@pytest.fixture
def source(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A registry with its files in ``files``. It serves what current registries do not accept any more."""
    (tmp_path / "source").mkdir()
    with DockerRegistry(tmp_path / "source", FilesystemStorage(tmp_path / "files"), legacy=True) as registry:
        yield registry


@pytest.fixture
def insecure_hosts(source: DockerRegistry) -> frozenset[str]:
    return frozenset({source.host})


@pytest.fixture
def service(tmp_path: Path, valkey: ValkeyServer, rclone_s3: RcloneS3, s3_prefix: str) -> Iterator[LiveService]:
    (tmp_path / "service").mkdir()
    with LiveService(tmp_path / "service", valkey, rclone_s3, s3_prefix) as running:
        yield running


def write_manifest(files: Path, repository: str, tag: str, body: bytes) -> Digest:
    """Write a manifest into a registry's files, as a release that accepted it has done."""
    digest = Digest.of(body)
    links = (
        layout.revision_link_key(repository, digest),
        layout.tag_history_key(repository, tag, digest),
        layout.tag_current_key(repository, tag),
    )
    for key, content in ((layout.blob_key(digest), body), *((link, str(digest).encode()) for link in links)):
        (files / key).parent.mkdir(parents=True, exist_ok=True)
        (files / key).write_bytes(content)
    return digest


def push_blobs(registry: DockerRegistry, repository: str, image: images.TestImage) -> None:
    """Push the config and the layers of *image*, which need no manifest of their own."""
    images.push(
        images.TestImage(images.index().body, images.index().media_type, image.blobs), registry.url, repository, "x"
    )


def mirror(harness: Harness, source: str, target: str) -> Job:
    job, _ = harness.core.submitter.submit([ImageRequest(source, target)])
    return harness.run_tasks(job)


def skopeo(*arguments: str) -> None:
    done = subprocess.run([str(program("skopeo")), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_foreign_layer_is_pulled_from_the_mirror_and_from_a_stock_registry_on_its_bucket(
    tmp_path: Path,
    harness: Harness,
    source: DockerRegistry,
    service: LiveService,
    rclone_s3: RcloneS3,
    s3_prefix: str,
) -> None:
    push_blobs(source, "windows/app", WINDOWS)
    write_manifest(tmp_path / "files", "windows/app", "1", WINDOWS.body)
    job = mirror(harness, f"{source.host}/windows/app:1", "team/app:1")
    assert (job.state, job.error) == ("succeeded", None)
    assert job.foreign_layers == ForeignLayerCounts(copied=1)
    (tmp_path / "stock").mkdir()
    with DockerRegistry(tmp_path / "stock", S3Storage(rclone_s3, s3_prefix)) as stock:
        for name, registry in (("ours", service), ("stock", stock)):
            copied = tmp_path / f"pulled-from-{name}"
            skopeo("copy", "--src-tls-verify=false", f"docker://{registry.host}/team/app:1", f"dir:{copied}")
            assert (copied / "manifest.json").read_bytes() == WINDOWS.body
            for digest, content in WINDOWS.blobs.items():
                assert (copied / digest.hex).read_bytes() == content


@pytest.mark.parametrize("is_there", [True, False], ids=["pushed", "not pushed"])
def test_a_foreign_layer_with_urls_is_served_if_the_source_has_it(
    harness: Harness, source: DockerRegistry, service: LiveService, is_there: bool
) -> None:
    """A registry accepts the manifest without the blob. Docker pushes it so by default."""
    base = images.image(images.layer("ours"), docker=True)
    image = images.with_foreign_layer(base, BASE, url="https://publisher.example/base")
    pushed = image if is_there else images.TestImage(image.body, image.media_type, base.blobs)
    images.push(pushed, source.url, "windows/app", "1")
    job = mirror(harness, f"{source.host}/windows/app:1", "team/app:1")
    assert (job.state, job.error) == ("succeeded", None)
    assert job.foreign_layers == ForeignLayerCounts(copied=int(is_there), left_out=int(not is_there))
    layer = Digest.of(BASE)
    path = f"/v2/windows/app/blobs/{layer}"
    asked = [request for request in source.requests() if request[1] == path]
    assert asked == [("HEAD", path), ("GET", path)][: 1 + is_there]
    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request("GET", f"{service.url}/v2/team/app/blobs/{layer}")
        assert (answer.status, answer.data == BASE) == ((200, True) if is_there else (404, False))
        shown = pool.request("GET", f"{service.url}/v1/images/team/app:1", headers=service.headers).json()
        told = pool.request("GET", f"{service.url}/v1/jobs/{job.id}", headers=service.headers).json()
    [one] = shown["images"]
    assert [(one["foreign"], one["held"]) for one in one["layers"]] == [(False, True), (True, is_there)]
    assert one["size"] == shown["size"] == len(image.body) + sum(map(len, pushed.blobs.values()))
    assert told["foreign_layers"] == {"copied": int(is_there), "left_out": int(not is_there)}
    assert told["tasks"][0]["foreign_layers"] == told["foreign_layers"]


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_schema_1_is_refused_and_mirrored_after_the_conversion_that_the_hint_names(
    tmp_path: Path, harness: Harness, source: DockerRegistry, by: str
) -> None:
    layer = images.layer("old", compressed=True)
    push_blobs(source, "old/app", images.image(layer))
    history = {"id": "a" * 64, "created": "2016-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": {}}
    payload = {
        "schemaVersion": 1,
        "name": "old/app",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": str(layer.digest)}],
        "history": [{"v1Compatibility": json.dumps(history)}],
    }
    digest = write_manifest(tmp_path / "files", "old/app", "1", json.dumps(payload, indent=3).encode())
    name = f"{source.host}/old/app" + (":1" if by == "tag" else f"@{digest}")
    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request("GET", f"{source.url}/v2/old/app/manifests/{digest if by == 'digest' else '1'}")
    assert answer.headers["Content-Type"] == "application/vnd.docker.distribution.manifest.v1+prettyjws"
    assert answer.headers["Docker-Content-Digest"] == str(digest) != str(Digest.of(answer.data))
    job = mirror(harness, name, "team/app:1")
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == "MEDIA_TYPE_UNSUPPORTED"
    assert "skopeo copy --format v2s2" in job.error.hint
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", "--format", "v2s2", *insecure, f"docker://{name}", f"docker://{source.host}/old/app:2")
    assert mirror(harness, f"{source.host}/old/app:2", "team/app:2").state == "succeeded"
