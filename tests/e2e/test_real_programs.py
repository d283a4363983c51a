"""Copies between real programs: registry, worker, bucket and skopeo."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from mirror.jobs.submit import Submitter
from mirror.oci.digest import Digest
from mirror.queue import TaskQueue
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.jobs import JobStore
from mirror.redis.client import Redis, open_client
from tests.conftest import MakeSettings
from tests.e2e.processes import Process, eventually
from tests.support import images
from tests.support.servers import DockerRegistry, RcloneS3, S3Storage, program

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
pytestmark = [pytest.mark.docker_registry, pytest.mark.skopeo]


@pytest.fixture
def stock(tmp_path: Path, rclone_s3: RcloneS3, s3_prefix: str) -> Iterator[DockerRegistry]:
    """A stock registry on the bucket that the mirror writes."""
    (tmp_path / "stock").mkdir()
    with DockerRegistry(tmp_path / "stock", S3Storage(rclone_s3, s3_prefix)) as registry:
        yield registry


@pytest.fixture
def mirror(
    tmp_path: Path,
    redis_url: str,
    rclone_s3: RcloneS3,
    s3_prefix: str,
    docker_registry: DockerRegistry,
    settings: MakeSettings,
) -> Iterator[Submitter]:
    environment = {
        **rclone_s3.settings_env(s3_prefix),
        "MIRROR_REDIS_URL": redis_url,
        "MIRROR_INSECURE_REGISTRIES": docker_registry.host,
        "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    redis, raw = Redis.connect(redis_url), open_client(redis_url, retries=2, decode_responses=False)
    with Process("worker", environment, tmp_path / "worker.log"):
        allowed = settings(allowed_networks=LOOPBACK)
        yield Submitter(JobStore(redis), TaskQueue(raw), allowed)
    raw.close()
    redis.close()


def mirrored(mirror: Submitter, redis_url: str, source: str, target: str) -> Job:
    redis = Redis.connect(redis_url)
    store = JobStore(redis)
    job, _ = mirror.submit([ImageRequest(source, target)])

    def ask() -> Job | None:
        now = store.job(job.id)
        return now if now.finished_at else None

    ended = eventually(ask, what=f"{source} was mirrored")
    redis.close()
    assert ended.state == "succeeded", ended.error
    return ended


@pytest.mark.parametrize("kind", ["single", "three platforms", "docker list"])
def test_a_stock_registry_serves_what_we_wrote_and_skopeo_verifies_it(
    tmp_path: Path, mirror: Submitter, stock: DockerRegistry, docker_registry: DockerRegistry, redis_url: str, kind: str
) -> None:
    image = {
        "single": images.image(images.layer("a", 50_000, compressed=True), images.layer("b")),
        "three platforms": images.three_platforms("c"),
        "docker list": images.index(("linux/amd64", images.image(images.layer("d"), docker=True)), docker=True),
    }[kind]
    name = kind.replace(" ", "-")
    images.push(image, docker_registry.url, f"stock/{name}", "1.0")
    job = mirrored(mirror, redis_url, f"{docker_registry.host}/stock/{name}:1.0", f"team/{name}:1.0")
    assert job.digest == str(image.digest)

    copied = tmp_path / "copied"
    source = f"docker://{stock.host}/team/{name}:1.0"
    command = [str(program("skopeo")), "copy", "--all", "--src-tls-verify=false", source, f"dir:{copied}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert Digest.of((copied / "manifest.json").read_bytes()) == image.digest
    for digest, content in image.all_blobs().items():
        assert (copied / digest.hex).read_bytes() == content

    with urllib3.PoolManager() as pool:
        catalog = json.loads(pool.request("GET", f"{stock.url}/v2/_catalog").data)
        tags = json.loads(pool.request("GET", f"{stock.url}/v2/team/{name}/tags/list").data)
    assert f"team/{name}" in catalog["repositories"]
    assert tags["tags"] == ["1.0"]
