"""Image Mirror as a tool: the API, workers, the scheduler and a durable Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from bench.measurement import OURS
from bench.programs import REPOSITORY
from bench.resources import cpu_seconds
from bench.source import SourceImage
from bench.tool import COPY_TIMEOUT, CopyFailed, ReadyTool, Site
from mirror.records.job_request import MOST_IMAGES
from tests.support.servers.process import Server
from tests.support.servers.s3 import REGION
from tests.support.servers.valkey import ValkeyServer

_TOKEN: Final = "a-token-for-the-benchmark-only"  # noqa: S105 - of a service on loopback that lives for one copy
_PAUSE: Final = 0.05
"""Seconds between two polls while no progress is known."""
_SHORTEST, _LONGEST = 0.02, 1.0
_UNFINISHED: Final = ("queued", "running")
_FAILED: Final = ("failed", "partial", "canceled")
_UP_WITHIN: Final = 60.0
_DOWN_WITHIN: Final = 20.0


@dataclass(frozen=True, slots=True)
class ImageMirror:
    """The code of *checkout* with the packages of this one.

    *budget* is its MIRROR_MEMORY_BUDGET, if given.
    """

    checkout: Path = REPOSITORY
    budget: str | None = None

    @property
    def name(self) -> str:
        return f"{OURS}-{self.budget.lower()}" if self.budget else OURS

    def versions(self) -> Sequence[str]:
        git = ["git", "-C", str(self.checkout), "describe", "--always", "--dirty"]
        described = subprocess.run(git, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
        return [f"Image Mirror {described or 'of unknown commit'}, Python {sys.version.split()[0]}"]

    @contextmanager
    def ready(self, site: Site) -> Iterator[ReadyTool]:
        valkey_directory = site.directory / "valkey"
        valkey_directory.mkdir(exist_ok=True)
        with ExitStack() as stack:
            valkey = stack.enter_context(ValkeyServer(valkey_directory, append_only=True))
            environment = _environment(site, valkey, self.checkout, self.budget)
            service = stack.enter_context(_Service(site.directory, environment))
            workers = [stack.enter_context(_process("worker", environment, site)) for _ in range(site.workers)]
            scheduler = stack.enter_context(_process("worker.scheduler", environment, site))
            product = _Product(site, valkey, service, workers, scheduler)
            stack.callback(product.close)
            product.wait_for_workers()
            yield product


class _Product:
    def __init__(
        self,
        site: Site,
        valkey: ValkeyServer,
        service: _Service,
        workers: Sequence[subprocess.Popen[bytes]],
        scheduler: subprocess.Popen[bytes],
    ) -> None:
        self._site = site
        self._valkey = valkey
        self._service = service
        self._workers = [worker.pid for worker in workers]
        self._scheduler = scheduler.pid
        self._http = urllib3.PoolManager(retries=False, timeout=30, headers={"Authorization": f"Bearer {_TOKEN}"})

    def close(self) -> None:
        self._http.clear()

    def copy(self, images: Sequence[SourceImage]) -> None:
        """POST as few jobs as possible for the images, then poll until all have ended."""
        start_time = time.monotonic()
        jobs = [self._post(images[start : start + MOST_IMAGES]) for start in range(0, len(images), MOST_IMAGES)]
        if len(images) == 1:
            self._wait_for_job(jobs[0], start_time)
        else:
            self._wait_for_newest_jobs(len(jobs), start_time)

    def cpu(self) -> dict[str, float]:
        own = [*self._workers, self._scheduler]
        service, redis = [_pid(self._service)], [_pid(self._valkey)]
        return {"own": cpu_seconds(own), "service": cpu_seconds(service), "redis": cpu_seconds(redis)}

    def memory(self) -> dict[str, list[int]]:
        """Return the roots of the process trees. A worker's tree includes its work horse."""
        return {"own": self._workers, "service": [_pid(self._service)], "redis": [_pid(self._valkey)]}

    def wait_for_workers(self) -> None:
        """Wait until every worker listens to the queue, as in production before a POST.

        Raises CopyFailed.
        """
        import redis  # noqa: PLC0415 - nothing else here uses Redis

        deadline = time.monotonic() + _UP_WITHIN
        with redis.Redis.from_url(self._valkey.url) as client:
            while time.monotonic() < deadline:
                blocked = sum(
                    "brpop" in c["cmd"] or "blpop" in c["cmd"] or "blmove" in c["cmd"] for c in client.client_list()
                )
                if blocked >= len(self._workers):
                    return
                time.sleep(_PAUSE)
        raise CopyFailed(f"the workers did not start: {_tail(self._site.directory / 'worker.log')}")

    def _post(self, images: Sequence[SourceImage]) -> str:
        names = [f"{image.repository}:{image.tag}" for image in images]
        wanted = [{"source": f"{self._site.source}/{name}", "target": name} for name in names]
        request = wanted[0] if len(wanted) == 1 else {"images": wanted}
        answer = self._http.request("POST", f"{self._service.url}/v1/jobs", json=request)
        if answer.status != 202:
            raise CopyFailed(f"{answer.status} for {names[0]}: {answer.data.decode(errors='replace')}")
        job: str = answer.json()["id"]
        return job

    def _wait_for_job(self, job: str, start_time: float) -> None:
        while (passed := time.monotonic() - start_time) < COPY_TIMEOUT:
            document = self._get(f"/v1/jobs/{job}")
            if document["state"] == "succeeded":
                return
            if document["state"] not in _UNFINISHED:
                raise self._failure(document)
            time.sleep(poll_interval(passed, document))
        raise CopyFailed(f"{job} takes more than {COPY_TIMEOUT:.0f} s")

    def _wait_for_newest_jobs(self, jobs: int, start_time: float) -> None:
        """Poll until the newest *jobs* have all ended.

        The list of jobs is cheaper than one GET for each.
        """
        while (passed := time.monotonic() - start_time) < COPY_TIMEOUT:
            documents: list[dict[str, Any]] = self._get(f"/v1/jobs?limit={jobs}")["items"]
            states = {document["state"] for document in documents}
            if states == {"succeeded"}:
                return
            if failed := [document for document in documents if document["state"] in _FAILED]:
                raise self._failure(failed[0])
            time.sleep(_PAUSE)
        raise CopyFailed(f"the jobs take more than {passed:.0f} s")

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._http.request("GET", self._service.url + path)
        if answer.status != 200:
            raise CopyFailed(f"{answer.status} for {path}: {answer.data.decode(errors='replace')}")
        document: dict[str, Any] = answer.json()
        return document

    def _failure(self, document: dict[str, Any]) -> CopyFailed:
        return CopyFailed(f"{document}\n{_tail(self._site.directory / 'worker.log')}")


def poll_interval(passed: float, document: Mapping[str, Any]) -> float:
    """Return the seconds until the next poll.

    It is half of the time that the remaining bytes probably need, within bounds.

    A poll costs 4 ms of CPU that the copy needs. On average the end is noticed half an interval late.
    """
    total: int = document["bytes"]["total"]
    copied: int = document["bytes"]["copied"]
    if copied == 0:
        return _PAUSE
    return min(max(passed * (total - copied) / copied / 2, _SHORTEST), _LONGEST)


class _Service(Server):
    name = "service"

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        super().__init__(directory)
        self._settings = environment

    def command(self) -> list[str]:
        return [sys.executable, "-m", "service"]

    def environment(self) -> dict[str, str]:
        inherited = {name: "" for name in os.environ if name.startswith(("MIRROR_", "AWS_"))}
        return {**inherited, **self._settings, "MIRROR_PORT": str(self.port)}

    def answers(self) -> bool:
        with urllib3.PoolManager(retries=False, timeout=5) as http:
            try:
                return http.request("GET", f"{self.url}/readyz").status == 200
            except urllib3.exceptions.HTTPError:
                return False


@contextmanager
def _process(module: str, environment: dict[str, str], site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m MODULE`` during the block, and end it with SIGTERM."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "AWS_"))}
    with (site.directory / f"{module}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=site.directory,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_DOWN_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(site: Site, valkey: ValkeyServer, checkout: Path, budget: str | None) -> dict[str, str]:
    """Return the settings of the product.

    All others are the defaults, with integrity checks.
    """
    return {
        **({"MIRROR_MEMORY_BUDGET": budget} if budget else {}),
        "MIRROR_REDIS_URL": valkey.url,
        "MIRROR_S3_ENDPOINT": site.endpoint,
        "MIRROR_S3_BUCKET": site.bucket,
        "MIRROR_S3_REGION": REGION,
        "MIRROR_DATA_DIR": str(site.directory),
        "MIRROR_ADMIN_TOKEN": _TOKEN,
        "MIRROR_INSECURE_REGISTRIES": site.source,
        "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
        "AWS_ACCESS_KEY_ID": site.server.access_key,
        "AWS_SECRET_ACCESS_KEY": site.server.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(checkout),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _pid(server: Server) -> int:
    if server.pid is None:
        raise CopyFailed(f"{server.name} has ended")
    return server.pid


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]
