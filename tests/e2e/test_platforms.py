"""Images of chosen platforms are pulled by real clients: from the mirror, and from a stock registry on its bucket."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

from mirror.oci.digest import Digest
from mirror.redis.client import Redis
from tests.api.live_service import LiveService
from tests.e2e.node_clients import DOCKER, MakeNode
from tests.e2e.processes import Process, eventually
from tests.support import images
from tests.support.harness import mark_built
from tests.support.images import TestImage
from tests.support.servers import DockerRegistry, RcloneS3, S3Storage, ValkeyServer, program
from tests.support.servers.node import NAME

pytestmark = [pytest.mark.docker_registry, pytest.mark.skopeo]

_PLATFORMS: Final = images.three_platforms("pulled")
AMD64: Final = next(iter(_PLATFORMS.children.values()))
IMAGE: Final = images.with_attestation(_PLATFORMS, AMD64)
ARM64: Final = list(IMAGE.children.values())[1]
MODES: Final = ("sparse", "rewrite", "single")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror of processes, which has the image once for each mode, and a stock registry on its bucket."""

    service: LiveService
    stock: DockerRegistry
    jobs: dict[str, dict[str, Any]]

    @property
    def servers(self) -> dict[str, LiveService | DockerRegistry]:
        return {"mirror": self.service, "stock registry": self.stock}


@pytest.fixture(scope="module")
def mirror(
    tmp_path_factory: pytest.TempPathFactory, rclone_s3: RcloneS3, docker_registry: DockerRegistry
) -> Iterator[Mirror]:
    images.push(IMAGE, docker_registry.url, "platforms/app", "1")
    prefix = f"tests/{secrets.token_hex(8)}"
    folders = {name: tmp_path_factory.mktemp(name) for name in ("valkey", "service", "stock", "worker")}
    allowed = {"MIRROR_INSECURE_REGISTRIES": docker_registry.host, "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with ExitStack() as running:
        valkey = running.enter_context(ValkeyServer(folders["valkey"]))
        redis = Redis.connect(valkey.url)
        mark_built(redis)
        redis.close()
        settings = {"MIRROR_ANONYMOUS_PULL": "true", **allowed}
        service = running.enter_context(LiveService(folders["service"], valkey, rclone_s3, prefix, **settings))
        stock = running.enter_context(DockerRegistry(folders["stock"], S3Storage(rclone_s3, prefix)))
        environment = {**rclone_s3.settings_env(prefix), "MIRROR_REDIS_URL": valkey.url, **allowed}
        running.enter_context(Process("worker", environment, folders["worker"] / "worker.log"))
        source = f"{docker_registry.host}/platforms/app:1"
        yield Mirror(service, stock, {mode: mirrored(service, source, mode) for mode in MODES})


def mirrored(service: LiveService, source: str, mode: str) -> dict[str, Any]:
    """Mirror the platform linux/arm64 with this mode. Return the job, which has succeeded."""
    rules = {"only": ["linux/arm64"], "mode": mode}
    request = {"source": source, "target": f"team/app:{mode}", "platforms": rules}
    posted = asked(service, "POST", "/v1/jobs", request)

    def ended() -> dict[str, Any] | None:
        job = asked(service, "GET", f"/v1/jobs/{posted['id']}")
        return job if job["finished_at"] else None

    job = eventually(ended, what=f"{source} was mirrored with the mode {mode}")
    assert job["state"] == "succeeded", job["error"]
    return job


def asked(service: LiveService, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        answer = pool.request(method, service.url + path, headers=service.headers, json=body)
    assert answer.status in (200, 202), answer.data
    document: dict[str, Any] = answer.json()
    return document


def host(server: LiveService | DockerRegistry) -> str:
    return f"127.0.0.1:{server.port}"


def skopeo_copy(reference: str, architecture: str, directory: Path) -> subprocess.CompletedProcess[bytes]:
    options = ["--override-os=linux", f"--override-arch={architecture}"]
    command = [
        str(program("skopeo")),
        *options,
        "copy",
        "--src-tls-verify=false",
        f"docker://{reference}",
        f"dir:{directory}",
    ]
    return subprocess.run(command, capture_output=True, timeout=60)


def expected(mode: str, job: dict[str, Any]) -> tuple[str, bool]:
    """Return the digest that the tag shows, and whether it is that of the source."""
    return {
        "sparse": (str(IMAGE.digest), True),
        "rewrite": (job["digest"], False),
        "single": (str(ARM64.digest), False),
    }[mode]


def same_image(directory: Path, image: TestImage) -> bool:
    """Whether skopeo copied this manifest and all of its blobs, byte for byte."""
    held = {Digest.of(content.read_bytes()) for content in directory.iterdir()}
    return {image.digest, *image.blobs} <= held


def test_the_job_says_truthfully_whether_the_digest_is_that_of_the_source(mirror: Mirror) -> None:
    for mode, job in mirror.jobs.items():
        digest, preserved = expected(mode, job)
        [task] = job["tasks"]
        for document in (job, task):
            assert (document["digest"], document["digest_preserved"]) == (digest, preserved), mode
            assert document["source_digest"] == str(IMAGE.digest), mode
        assert job["request"]["platforms"] == {"only": ["linux/arm64"], "mode": mode}
        shown = asked(mirror.service, "GET", f"/v1/images/team/app:{mode}")
        assert shown["digest"] == digest
        assert (shown["source_digest"], shown["platforms_mode"]) == (str(IMAGE.digest), mode)
        assert shown["platforms"] == ["linux/arm64"]
        with urllib3.PoolManager(retries=False, timeout=20) as pool:
            for server in mirror.servers.values():
                accept = {
                    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
                }
                answer = pool.request("GET", f"{server.url}/v2/team/app/manifests/{mode}", headers=accept)
                assert answer.headers["Docker-Content-Digest"] == digest == str(Digest.of(answer.data))
    rewritten = mirror.jobs["rewrite"]["digest"]
    assert rewritten not in (str(IMAGE.digest), str(ARM64.digest))


@pytest.mark.parametrize("mode", MODES)
def test_skopeo_copies_the_chosen_platform_and_fails_for_another(mirror: Mirror, tmp_path: Path, mode: str) -> None:
    for name, server in mirror.servers.items():
        reference, directory = f"{host(server)}/team/app:{mode}", tmp_path / f"{name}-arm64"
        copied = skopeo_copy(reference, "arm64", directory)
        assert copied.returncode == 0, copied.stderr
        assert same_image(directory, ARM64)
        if mode != "single":
            refused = skopeo_copy(reference, "amd64", tmp_path / f"{name}-amd64")
            assert refused.returncode != 0
            message = (
                b"manifest unknown" if mode == "sparse" else b"no image found in image index for architecture amd64"
            )
            assert message in refused.stderr.lower(), refused.stderr


def test_a_missing_child_is_404_and_the_hint_names_the_mode(mirror: Mirror) -> None:
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        answer = pool.request("GET", f"{mirror.service.url}/v2/team/app/manifests/{AMD64.digest}")
    assert answer.status == 404
    [error] = json.loads(answer.data)["errors"]
    assert error["code"] == "MANIFEST_UNKNOWN"
    assert "the platforms mode 'sparse', without this platform" in error["detail"]["hint"]


@pytest.mark.node_clients
@pytest.mark.parametrize("server", ["mirror", "stock registry"])
def test_docker_pulls_the_chosen_platform_and_fails_for_another(mirror: Mirror, node: MakeNode, server: str) -> None:
    machine = node(mirror.servers[server], DOCKER)
    DOCKER.start(machine)
    for mode in MODES:
        name = f"{NAME}/team/app:{mode}"
        machine.run(f"docker pull --platform linux/arm64 {name}")
        found = machine.run(f"docker image inspect --format '{{{{.Os}}}}/{{{{.Architecture}}}}' {name}")
        assert found.strip() == "linux/arm64"
        machine.run(f"docker image rm {name}")
        refused = machine.attempt(f"docker pull --platform linux/amd64 {name}")
        if mode == "sparse":
            assert refused.returncode != 0
            assert "manifest unknown" in refused.stderr or "holds no image" in refused.stderr, refused.stderr
        elif mode == "rewrite":
            assert refused.returncode != 0
            assert "no matching manifest for linux/amd64" in refused.stderr, refused.stderr
