"""Cancel and retry over the API, with a worker as a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

from mirror.storage import layout
from mirror.storage.bucket import Bucket
from tests.api.live_service import LiveService
from tests.e2e.processes import Process, eventually
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.servers import ValkeyServer, VersityGateway

MIB: Final = 2**20


@dataclass
class Mirror:
    """A service and a worker on their own stores.

    Tests use them over HTTP, and inspect the bucket.
    """

    api: LiveService
    worker: Process
    registry: FakeRegistry
    bucket: Bucket

    def call(self, method: str, path: str, **body: str) -> dict[str, Any]:
        with urllib3.PoolManager(retries=False, timeout=10) as http:
            url = f"{self.api.url}/v1/jobs{path}"
            answer = http.request(method, url, headers=dict(self.api.headers), json=body or None)
            assert answer.status == (200 if method == "GET" else 202), answer.data
            return dict(answer.json())

    def post(self, repository: str) -> str:
        return str(self.call("POST", "", source=f"{self.registry.host}/{repository}:1")["id"])

    def copied(self, job_id: str) -> int:
        return int(self.call("GET", f"/{job_id}")["bytes"]["copied"])

    def ended(self, job_id: str) -> dict[str, Any]:
        def ask() -> dict[str, Any] | None:
            job = self.call("GET", f"/{job_id}")
            return job if job["finished_at"] else None

        return eventually(ask, what="the job has ended")

    def tags(self) -> list[str]:
        return [key for key in self.bucket.keys("") if "/_manifests/" in key or "/_layers/" in key]


@pytest.fixture
def mirror(tmp_path: Path, versitygw: VersityGateway, versitygw_bucket: Bucket, s3_prefix: str) -> Iterator[Mirror]:
    """A mirror on the S3 server that lists its open uploads."""
    (tmp_path / "valkey").mkdir()
    (tmp_path / "api").mkdir()
    with FakeRegistry() as registry, ValkeyServer(tmp_path / "valkey") as valkey:
        permitted = {"MIRROR_INSECURE_REGISTRIES": registry.host, "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8"}
        stores = {**versitygw.settings_env(s3_prefix), "MIRROR_REDIS_URL": valkey.url}
        with (
            LiveService(tmp_path / "api", valkey, versitygw, s3_prefix, **permitted) as api,
            Process("worker", {**stores, **permitted}, tmp_path / "worker.log") as worker,
        ):
            yield Mirror(api, worker, registry, versitygw_bucket)


def test_a_job_is_canceled_in_the_middle_of_a_blob_and_retried(mirror: Mirror) -> None:
    big, small = images.layer("big", 40 * MIB), images.layer("small")
    image = images.image(big, small)
    mirror.registry.put(image, "team/app", "1")
    release = threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if str(big.digest) in request.path:
            reply.hold = (MIB, release)
        return reply

    mirror.registry.script(hold)
    job_id = mirror.post("team/app")
    eventually(lambda: mirror.copied(job_id) > MIB, what="the copy is in the middle of its blob")
    eventually(lambda: mirror.bucket.uploads.list_open(""), what="the blob's upload is open")
    assert mirror.call("POST", f"/{job_id}/cancel")["cancel_requested_at"] is not None

    canceled = mirror.ended(job_id)
    assert (canceled["state"], canceled["error"]) == ("canceled", None)
    requested, ended = (datetime.fromisoformat(canceled[name]) for name in ("cancel_requested_at", "finished_at"))
    print(f"cancel to the job's end: {(ended - requested).total_seconds():.2f} s")  # noqa: T201 - a measurement
    assert mirror.tags() == []
    eventually(lambda: not mirror.bucket.uploads.list_open(""), what="no upload is open")
    held = list(mirror.bucket.keys(layout.BLOBS_PREFIX))
    assert layout.blob_key(small.digest) in held
    assert layout.blob_key(big.digest) not in held

    mirror.registry.put(images.image(images.layer("next")), "team/next", "1")
    assert mirror.ended(mirror.post("team/next"))["state"] == "succeeded"
    assert mirror.worker.child.poll() is None

    release.set()
    assert mirror.call("POST", f"/{job_id}/retry")["attempt"] == 2
    again = mirror.ended(job_id)
    assert (again["state"], again["digest"]) == ("succeeded", str(image.digest))
    assert len(mirror.registry.log("api", method="GET", path=str(small.digest))) == 1


def test_a_queued_job_is_canceled_without_a_worker(mirror: Mirror) -> None:
    mirror.registry.put(images.image(images.layer("a")), "team/app", "1")
    mirror.worker.terminate(within=10)
    job_id = mirror.post("team/app")
    assert mirror.call("POST", f"/{job_id}/cancel")["state"] == "canceled"
    assert mirror.registry.log() == []
