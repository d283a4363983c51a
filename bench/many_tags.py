"""Measure a job over a repository of many tags: ``python -m bench.many_tags``. See docs/benchmarks.md.

A stock registry serves the tags, and several workers mirror all of them once. Then three jobs are measured: nothing has
changed, some tags have changed, and a job of one image that is posted while the first one runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.checkout_service import described
from bench.programs import REPOSITORY
from bench.report import load_text, machine, publish
from bench.resources import PeakMemory
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import TagRules
from mirror.settings import Settings
from mirror.wiring import Core, build
from tests.e2e.processes import Process, eventually
from tests.support import images
from tests.support.servers import DockerRegistry, EmbeddedS3, FilesystemStorage, ValkeyServer

_PAGE: Final = REPOSITORY / "docs" / "benchmarks.md"
_COMMAND: Final = "python -m bench.many_tags"
_PLACE: Final = "many-tags"
_HEAD: Final = (
    "| job | tags | seconds | unchanged | copied | requests to the source | per tag | peak of a worker, MiB "
    "| copies per worker |\n|---|---|---|---|---|---|---|---|---|"
)
_MIB: Final = 2**20
_ENDED: Final = ("succeeded", "partial", "failed", "canceled")
_LONGEST: Final = 1800.0


class TagTree:
    """The files of a stock registry's repositories, written without pushing each tag."""

    def __init__(self, root: Path) -> None:
        self._root = root / "docker" / "registry" / "v2"

    def put(self, repository: str, tag: str, seed: str) -> None:
        """Let *tag* show an image of its own, made of *seed*. All images share one layer."""
        image = images.image(_LAYER, platform=f"linux/{seed}")
        for blob, content in image.blobs.items():
            self._blob(str(blob), content)
            self._link(repository, f"_layers/{blob.algorithm}/{blob.hex}/link", str(blob))
        digest = f"sha256:{hashlib.sha256(image.body).hexdigest()}"
        self._blob(digest, image.body)
        path = digest.replace(":", "/")
        self._link(repository, f"_manifests/revisions/{path}/link", digest)
        self._link(repository, f"_manifests/tags/{tag}/index/{path}/link", digest)
        self._link(repository, f"_manifests/tags/{tag}/current/link", digest)

    def _blob(self, digest: str, content: bytes) -> None:
        algorithm, _, hex_ = digest.partition(":")
        path = self._root / "blobs" / algorithm / hex_[:2] / hex_ / "data"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _link(self, repository: str, path: str, digest: str) -> None:
        link = self._root / "repositories" / repository / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(digest)


@dataclass(frozen=True, slots=True)
class Measured:
    """One job: its seconds, the requests that the source was sent, and the memory of the largest worker in bytes."""

    what: str
    job: Job
    seconds: float
    requests: int
    peak: int
    copies: Sequence[int]

    def row(self) -> str:
        counts = self.job.images
        changed = counts.succeeded - counts.unchanged
        shares = " ".join(map(str, self.copies)) or "–"
        return (
            f"| {self.what} | {counts.total} | {self.seconds:.1f} | {counts.unchanged} | {changed} | {self.requests} "
            f"| {self.requests / max(1, counts.total):.2f} | {self.peak / _MIB:.0f} | {shares} |"
        )


class Rig:
    """A registry, the stores and the workers."""

    def __init__(self, running: ExitStack, folder: Path, workers: int) -> None:
        for name in ("valkey", "s3", "registry", "files"):
            (folder / name).mkdir()
        self.tree = TagTree(folder / "files")
        self.registry = running.enter_context(DockerRegistry(folder / "registry", FilesystemStorage(folder / "files")))
        valkey = running.enter_context(ValkeyServer(folder / "valkey"))
        s3 = running.enter_context(EmbeddedS3(folder / "s3"))
        environment = {
            **s3.settings_env("many"),
            "MIRROR_REDIS_URL": valkey.url,
            "MIRROR_INSECURE_REGISTRIES": self.registry.host,
            "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
            "MIRROR_ADMIN_TOKEN": "x" * 32,
        }
        self.logs = [folder / f"worker{n}.log" for n in range(workers)]
        self.workers = [running.enter_context(Process("worker", environment, log)) for log in self.logs]
        running.enter_context(Process("worker.scheduler", environment, folder / "scheduler.log"))
        with _environment(environment):
            self.core: Core = build(Settings.load())
        running.callback(self.core.close)

    def post(self, source: str, *, all_tags: bool) -> Job:
        request = ImageRequest(f"{self.registry.host}/{source}", tags=TagRules() if all_tags else None)
        return self.core.submitter.submit([request])[0]

    def ended(self, job: Job) -> Job:
        def ask() -> Job | None:
            now = self.core.jobs.job(job.id)
            return now if now.state in _ENDED else None

        return eventually(ask, within=_LONGEST, every=0.1, what=f"the job {job.id} ends")

    def copies(self, job: Job) -> list[int]:
        """Return how many images of the job each worker has copied, by its log."""
        return [sum(_is_copied(line, job) for line in log.read_text().splitlines()) for log in self.logs]

    def measure(self, what: str, source: str, *, meanwhile: str | None = None) -> list[Measured]:
        """Run the job over all tags of *source*. With *meanwhile*, post a job of that image as soon as it runs."""
        before = len(self.registry.requests())
        groups = {f"worker{n}": [worker.child.pid] for n, worker in enumerate(self.workers)}
        found: list[Measured] = []
        with PeakMemory(lambda: groups) as memory:
            began = time.monotonic()
            job = self.post(source, all_tags=True)
            if meanwhile:
                eventually(lambda: self.core.jobs.job(job.id).selected, within=120, what="the tags are chosen")
                posted = time.monotonic()
                small = self.ended(self.post(meanwhile, all_tags=False))
                found.append(Measured("one image meanwhile", small, time.monotonic() - posted, 0, 0, ()))
            job = self.ended(job)
            seconds = time.monotonic() - began
        requests = len(self.registry.requests()) - before
        return [Measured(what, job, seconds, requests, max(memory.peaks.values()), self.copies(job)), *found]


_LAYER: Final = images.layer("shared")


def _is_copied(line: str, job: Job) -> bool:
    """Whether a line of a worker's log says that it has copied an image of the job."""
    if job.id not in line:
        return False
    facts = json.loads(line)
    return bool(facts["event"] == "task succeeded" and facts.get("digest") and not facts["unchanged"])


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(tags: int, changed: int, workers: int) -> list[Measured]:
    """Mirror *tags* tags, then measure the three jobs."""
    with ExitStack() as running, tempfile.TemporaryDirectory() as folder:
        rig = Rig(running, Path(folder), workers)
        for n in range(tags):
            rig.tree.put("many/tags", f"v{n}", f"a{n}")
        rig.tree.put("small/app", "1.0", "small")
        found = rig.measure("all are new", "many/tags")
        found += rig.measure("nothing has changed", "many/tags")
        for n in range(0, tags, max(1, tags // changed)):
            rig.tree.put("many/tags", f"v{n}", f"b{n}")
        found += rig.measure("some have changed", "many/tags", meanwhile="small/app:1.0")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=500)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--publish", choices=[_PLACE], help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    load = load_text(os.getloadavg()[0])
    found = run(options.tags, options.changed, options.workers)
    when = datetime.now(UTC).date().isoformat()
    head = f"{when}, {machine()}, {described(REPOSITORY)}. {load} {options.workers} workers."
    text = "\n".join([head, "", _HEAD, *(measured.row() for measured in found)])
    sys.stdout.write(f"{text}\n")
    if options.publish:
        publish(text, _PAGE, _PLACE, _COMMAND)
    return 0 if all(measured.job.state == "succeeded" for measured in found) else 1


if __name__ == "__main__":
    sys.exit(main())
