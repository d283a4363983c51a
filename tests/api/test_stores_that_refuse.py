"""While Redis or S3 takes no writes, the service responds with the reason, and never with a 500."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis as vendor
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from mirror.redis import keys
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.throttling.storage_breaker import StorageBreaker, StorageTrouble
from mirror.wiring import Core
from service.api.health import readiness
from service.app import create_app
from service.core import Service
from service.http.auth import admin_token
from tests.api.seeded_catalog import SeededCatalog
from tests.conftest import SettingsForServer
from tests.support import images
from tests.support.fakes.sockets import RefusingRedis
from tests.support.servers import RcloneS3, ValkeyServer
from tests.support.servers.small_disk import SmallDisk

REQUESTS = [
    ("GET", "/v1/jobs", None),
    ("GET", "/v1/jobs/job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7", None),
    ("GET", "/v1/images", None),
    ("GET", "/v1/repositories", None),
    ("GET", "/v2/_catalog", None),
    ("POST", "/v1/jobs", {"source": "alpine:3.20"}),
    ("POST", "/v1/jobs/job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7/cancel", None),
    ("POST", "/v1/jobs/job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7/retry", None),
]


@pytest.fixture
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at /readyz ask anew."""
    for name in ("_FRESH", "_REDIS_WRITE_SECONDS", "_S3_WRITE_SECONDS", "_FAILED_WRITE_SECONDS"):
        monkeypatch.setattr(readiness, name, -1.0)


@pytest.fixture
def connect() -> Iterator[Callable[[Settings], FlaskClient]]:
    """Connects a service by its settings. Yields a client with the token."""
    made: list[Service] = []

    def connect(settings: Settings) -> FlaskClient:
        made.append(Service.connect(settings))
        client = create_app(made[-1]).test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {admin_token(settings)}"
        return client

    yield connect
    for service in made:
        service.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("LOADING Redis is loading the dataset in memory", "is still loading its data"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "cannot write: its disk is full"),
        ("CLUSTERDOWN Hash slot not served", "does not answer: its cluster is down"),
        ("NOPERM this user has no permissions", "does not let its user run a command that the mirror needs"),
    ],
)
def test_every_request_that_needs_redis_is_503_with_the_reason(
    api_settings: Settings, connect: Callable[[Settings], FlaskClient], answer: str, reason: str
) -> None:
    with RefusingRedis(answer) as server:
        client = connect(replace(api_settings, redis_url=server.url))
        for method, path, body in REQUESTS:
            response = client.open(path, method=method, json=body)
            assert response.status_code == 503, path
            assert int(response.headers["Retry-After"]) > 0
            assert f"Redis, which keeps the jobs, {reason}" in response.get_data(as_text=True)
        assert client.get("/livez").status_code == 200
        checks = client.get("/readyz?verbose").get_json()["checks"]
        assert (checks["redis"]["status"], checks["redis"]["detail"].endswith(reason)) == ("failed", True)


@pytest.mark.parametrize(
    ("spoil", "mend", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "its memory is full (maxmemory)"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "it is a read-only replica"),
    ],
)
@pytest.mark.usefixtures("asked_at_once")
def test_reads_go_on_and_writes_are_503_while_redis_takes_none(
    tmp_path: Path,
    api_settings: Settings,
    connect: Callable[[Settings], FlaskClient],
    spoil: tuple[str, ...],
    mend: tuple[str, ...],
    reason: str,
) -> None:
    with ValkeyServer(tmp_path) as valkey, vendor.Redis.from_url(valkey.url) as admin:
        command: Callable[..., Any] = admin.execute_command
        client = connect(replace(api_settings, redis_url=valkey.url))
        job = client.post("/v1/jobs", json={"source": "alpine:3.20"}).get_json()
        assert client.get("/readyz").status_code == 200
        command(*spoil)
        assert client.get(job["links"]["self"]).get_json()["state"] == "queued"
        assert len(client.get("/v1/jobs").get_json()["items"]) == 1
        for path in ("/v1/jobs", f"/v1/jobs/{job['id']}/cancel"):
            refused = client.post(path, json={"source": "redis:7"} if path == "/v1/jobs" else None)
            assert (refused.status_code, refused.get_json()["code"]) == (503, "REDIS_UNAVAILABLE")
            assert refused.get_json()["detail"] == f"Redis, which keeps the jobs, refuses writes: {reason}"
            assert int(refused.headers["Retry-After"]) > 0
        ready = client.get("/readyz?verbose")
        assert (ready.status_code, ready.get_json()["status"]) == (503, "unavailable")
        assert reason in ready.get_json()["checks"]["redis"]["detail"]
        command(*mend)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/jobs", json={"source": "redis:7"}).status_code == 202
        command("SCRIPT", "FLUSH")
        assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
        assert len(client.get("/v1/jobs").get_json()["items"]) == 2


@pytest.mark.usefixtures("asked_at_once")
def test_readiness_says_that_the_disk_of_the_embedded_s3_is_full_and_a_retag_why_it_is_refused(
    tmp_path: Path,
    api_settings: Settings,
    settings_for_server: SettingsForServer,
    connect: Callable[[Settings], FlaskClient],
) -> None:
    with SmallDisk(tmp_path / "disk") as disk, RcloneS3(tmp_path, data=disk.folder) as s3:
        settings = settings_for_server(s3, "", redis_url=api_settings.redis_url, s3_sync_folder=disk.folder)
        client = connect(settings)
        core = client.application.extensions["image-mirror"].core
        SeededCatalog(core).hold(images.image(images.layer("a")), "team/app:1")
        ready = client.get("/readyz?verbose").get_json()["checks"]["s3"]
        assert (ready["status"], ready["free_bytes"] > 0) == ("ok", True)
        disk.fill(s3)
        with capture_logs() as logged:
            full = client.get("/readyz?verbose")
        found = full.get_json()["checks"]["s3"]
        assert (full.status_code, found["status"]) == (503, "failed")
        refused = client.put("/v1/images/team/app:2", json={"digest": f"{_digest(client)}"})
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        if disk.is_real:
            assert (found["free_bytes"], refused.get_json()["code"]) == (0, "STORAGE_FULL")
            for text in (found["detail"], refused.get_json()["detail"]):
                assert "cannot write: its disk is full" in text
        assert [(line["event"], line["check"]) for line in logged if "check" in line] == [
            ("readiness check failed", "s3")
        ]
        assert client.get("/v1/images/team/app:1").status_code == 200
        disk.clear(s3)
        assert client.get("/readyz").status_code == 200
        assert client.put("/v1/images/team/app:2", json={"digest": f"{_digest(client)}"}).status_code == 201


def _digest(client: FlaskClient) -> str:
    return str(client.get("/v1/images/team/app:1").get_json()["digest"])


@pytest.mark.usefixtures("asked_at_once")
def test_readiness_says_that_the_disk_of_the_embedded_valkey_is_full_when_that_has_ended(
    tmp_path: Path, api_settings: Settings, connect: Callable[[Settings], FlaskClient]
) -> None:
    folder = tmp_path / "data" / "valkey"
    with SmallDisk(folder) as disk, ValkeyServer(folder, append_only=True) as valkey:
        client = connect(replace(api_settings, redis_url=valkey.url, data_dir=tmp_path / "data"))
        before = client.get("/readyz?verbose").get_json()["checks"]["redis"]
        assert (before["status"], before["free_bytes"] > 0) == ("ok", True)
        disk.fill(valkey)
        answers = (client.post("/v1/jobs", json={"source": "alpine:3.20"}) for _ in range(20))
        refused = next(answer for answer in answers if answer.status_code != 202)  # a page of the disk takes a few
        assert (refused.status_code, refused.get_json()["code"]) == (503, "REDIS_UNAVAILABLE")
        ready = client.get("/readyz?verbose")
        found = ready.get_json()["checks"]["redis"]
        assert (ready.status_code, found["status"]) == (503, "failed")
        if disk.is_real:
            assert found["detail"].endswith("; its disk is full: 0 bytes are free")
            assert found["free_bytes"] == 0
        if valkey.is_running:
            disk.clear(valkey)
        elif disk.is_real:
            (folder / "filler").unlink()
        valkey.restart()
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/jobs", json={"source": "alpine:3.20"}).status_code == 202


@pytest.mark.usefixtures("asked_at_once")
def test_readiness_tries_a_write_as_large_as_the_one_that_failed_a_worker(
    anyone: FlaskClient, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    probe = Bucket.probe

    def noted(bucket: Bucket, size: int = 0) -> None:
        sizes.append(size)
        probe(bucket, size)

    monkeypatch.setattr(Bucket, "probe", noted)
    assert anyone.get("/readyz").status_code == 200
    StorageBreaker(core.redis).failed("task", StorageTrouble("STORAGE_FULL", "write", "its disk is full", 5_000_000))
    assert anyone.get("/readyz").status_code == 200
    assert sizes == [0, 5_000_000]
    assert core.bucket.size("mirror/v1/probe") is None


def test_a_write_is_tried_only_every_so_often(anyone: FlaskClient, service: Service) -> None:
    def writes() -> int:
        found = service.core.redis.call("INFO", "commandstats").get("cmdstat_set", {"calls": 0})
        return int(found["calls"])

    before = writes()
    for _ in range(3):
        assert anyone.get("/readyz").status_code == 200
        service.readiness._checks["redis"]._asked_at = 0.0
    assert writes() - before == 1
    assert service.core.redis.call("TTL", keys.PROBE) > 0


def test_without_a_worker_and_a_scheduler_the_mirror_is_degraded_and_still_serves_pulls(
    anyone: FlaskClient, core: Core
) -> None:
    core.processes.leave("worker", name="host:1")
    core.redis.call("HSET", keys.heartbeats("scheduler"), "host:2", f"{core.redis.now() - 60_000} leader")
    response = anyone.get("/readyz?verbose")
    assert (response.status_code, response.get_json()["status"]) == (200, "degraded")
    checks = response.get_json()["checks"]
    assert (checks["workers"]["status"], checks["workers"]["processes"]) == ("degraded", [])
    assert "No worker is alive" in checks["workers"]["detail"]
    [scheduler] = checks["scheduler"]["processes"]
    assert (checks["scheduler"]["status"], scheduler["alive"], scheduler["name"]) == ("degraded", False, "host:2")
    assert 60 <= scheduler["age_seconds"] < 120


def test_verbose_readiness_lists_workers_and_schedulers(anyone: FlaskClient, core: Core) -> None:
    core.processes.beat("worker", "copying", name="host:9")
    checks = anyone.get("/readyz?verbose").get_json()["checks"]
    shown = {(process["name"], process["state"], process["alive"]) for process in checks["workers"]["processes"]}
    assert shown == {("host:1", "idle", True), ("host:9", "copying", True)}
    assert [process["state"] for process in checks["scheduler"]["processes"]] == ["leader"]
