"""Every format, mirrored and read back byte for byte: from `/v2`, and from a stock registry on the bucket."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
import redis
import urllib3

from mirror.oci import media_types
from mirror.records.job_request import ImageRequest
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from tests.api.live_service import LiveService
from tests.support import images
from tests.support.fakes.registry import FakeRegistry
from tests.support.formats import FORMATS, Format
from tests.support.harness import Harness
from tests.support.servers import REGION, DockerRegistry, RcloneS3, S3Storage, ValkeyServer

pytestmark = pytest.mark.docker_registry

ACCEPT: Final = {"Accept": ", ".join(media_types.ACCEPTED)}
PREFIX: Final = "every-format"


@dataclass(frozen=True)
class Mirrored:
    """Where all formats can be read, each from the repository that has its name. *states* are those of their tasks."""

    readers: dict[str, str]
    states: dict[str, tuple[str, str]]
    pool: urllib3.PoolManager

    def get(self, reader: str, repository: str, path: str) -> urllib3.BaseHTTPResponse:
        url = f"{self.readers[reader]}/v2/formats/{repository}/{path}"
        return self.pool.request("GET", url, headers=ACCEPT, decode_content=False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def core_settings(directory: Path, valkey: ValkeyServer, rclone_s3: RcloneS3) -> Iterator[Settings]:
    """The settings of the mirror, on an empty Valkey. The networks and registries are those of the tests."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in rclone_s3.settings_env(PREFIX).items():
            environment.setenv(name, value)
        yield Settings(
            data_dir=directory / "data",
            redis_url=valkey.url,
            s3_endpoint=rclone_s3.url,
            s3_bucket=rclone_s3.bucket,
            s3_region=REGION,
            s3_prefix=PREFIX,
            allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
            memory_budget=64 * 2**20,
        )


def hold(kind: Format, name: str, stock: DockerRegistry, scripted: FakeRegistry) -> str:
    """Let a registry hold the format, a stock one if it can. Return the source."""
    for image, tag in ((kind.needs, "needed"), (kind.image, "1")):
        if image is None:
            continue
        if kind.stock_refuses:
            scripted.put(image, name, tag)
        else:
            images.push(image, stock.url, name, tag)
    return f"{scripted.host if kind.stock_refuses else stock.host}/{name}:1"


@pytest.fixture(scope="module")
def mirrored(directory: Path, core_settings: Settings, valkey: ValkeyServer, rclone_s3: RcloneS3) -> Iterator[Mirrored]:
    """All formats, mirrored by one job."""
    folders = [directory / name for name in ("source", "stock", "service")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as running:
        source = running.enter_context(DockerRegistry(folders[0]))
        scripted = running.enter_context(FakeRegistry())
        stock = running.enter_context(DockerRegistry(folders[1], S3Storage(rclone_s3, PREFIX)))
        ours = running.enter_context(LiveService(folders[2], valkey, rclone_s3, PREFIX))
        pool = running.enter_context(urllib3.PoolManager(retries=False, timeout=20))
        settings = replace(core_settings, insecure_registries=frozenset({source.host, scripted.host}))
        harness = Harness.of(scripted, settings, Bucket.from_settings(settings))
        running.callback(harness.core.close)
        requests = [
            ImageRequest(hold(kind, name, source, scripted), f"formats/{name}:1") for name, kind in FORMATS.items()
        ]
        job, _ = harness.core.submitter.submit(requests)
        harness.run_work_horses(job)
        tasks = harness.jobs.tasks(job.id, len(FORMATS))
        states = {name: (str(task.state), str(task.error)) for name, task in zip(FORMATS, tasks, strict=True)}
        yield Mirrored({"ours": ours.url, "stock": stock.url}, states, pool)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_mirrored_and_read_back_byte_for_byte(mirrored: Mirrored, name: str) -> None:
    assert mirrored.states[name] == ("succeeded", "None")
    image = FORMATS[name].image
    for reader in mirrored.readers:
        for manifest in image.all_manifests():
            for reference in (str(manifest.digest), *(["1"] if manifest is image else [])):
                answer = mirrored.get(reader, name, f"manifests/{reference}")
                assert (reader, answer.status, answer.data) == (reader, 200, manifest.body)
                assert answer.headers["Content-Type"] == manifest.media_type
        for digest, content in image.all_blobs().items():
            answer = mirrored.get(reader, name, f"blobs/{digest}")
            assert (reader, answer.status, answer.data) == (reader, 200, content)
