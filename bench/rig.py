"""The servers of a run and one copy among them: measured, then verified.

Both rigs share the servers: *capped* through the pacing proxy, *loopback* directly.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import urllib3

from bench.measurement import Case, Measurement, Rig
from bench.resources import PeakMemory, cpu_seconds, freed_in_huge_pages
from bench.servers import BUCKET_SERVERS, AccessLog, BucketServer, Pacer, Registry, source_traffic
from bench.source import LoadedShape, SourceImage
from bench.tool import ReadyTool, Site, Tool
from mirror.oci import media_types

_SETTLED_WITHIN = 2.0
_POLL = 0.05
_WORKING_MEMORY = 512 * 2**20
"""Bytes for each worker."""
_PIECE = 1024 * 1024
_VERIFY_THREADS = 2


class CopyIsWrong(Exception):
    """A copied tag or blob differs from the source, so the measurement is invalid."""


@dataclass(slots=True)
class Bench:
    """Makes one copy at a time into its own bucket, verifies it and deletes it.

    *directory* holds source and bucket, which should be equally fast for all tools. *disk* holds what is on a disk in
    production, because Redis waits for its fsync. Logs of tools are deleted with their buckets, unless *logs* is given.
    """

    directory: Path
    disk: Path
    source: Registry
    bucket: BucketServer
    pacer: Pacer
    logs: Path | None
    _numbers: Iterator[int]
    _warm: set[str]

    def copy(self, case: Case, tool: Tool, loaded: LoadedShape) -> Measurement:
        """Make one copy and return its measurement. Raises CopyFailed or CopyIsWrong."""
        warm = loaded.shape.warm
        bucket = self._filled(case, tool, loaded) if warm else self._new(f"{_name(case)}-{next(self._numbers)}")
        site = self._site(bucket, case.rig, case.workers)
        with tool.ready(site) as ready:
            measured = self._measure(case, ready, loaded)
        self._keep_logs(site)
        verify(loaded, bucket, self.bucket, site.directory)
        if not warm:
            self.bucket.drop_bucket(bucket)
            shutil.rmtree(site.directory)
        return measured

    def _filled(self, case: Case, tool: Tool, loaded: LoadedShape) -> str:
        """Return a bucket into which the same tool copied everything before.

        Both rigs use the same bucket, because copying again changes nothing.
        """
        bucket = _name(case)
        if bucket not in self._warm:
            with tool.ready(self._site(self._new(bucket), "loopback", case.workers)) as ready:
                ready.copy(loaded.images)
            self._warm.add(bucket)
        return bucket

    def _measure(self, case: Case, tool: ReadyTool, loaded: LoadedShape) -> Measurement:
        log = AccessLog(self.source.log)
        position, requests = _settled(log.position), _settled(self.bucket.requests)
        freed_in_huge_pages(_WORKING_MEMORY * case.workers)
        before, cpu, rig_cpu = self.pacer.counters(), tool.cpu(), self._cpu()
        with PeakMemory(tool.memory) as memory:
            start = time.perf_counter()
            tool.copy(loaded.images)
            seconds = time.perf_counter() - start
        spent = {group: after - cpu[group] for group, after in tool.cpu().items()}
        rig_spent = self._cpu() - rig_cpu
        _settled(log.position)
        traffic, paced, now = source_traffic(log.since(position)), case.rig == "capped", self.pacer.counters()
        return Measurement(
            seconds=seconds,
            cpu=spent,
            memory=memory.peaks,
            rig_cpu=rig_spent,
            source_requests=traffic.requests,
            source_bytes=traffic.bytes,
            s3_requests=_settled(self.bucket.requests) - requests,
            s3_up=now["s3"].up - before["s3"].up if paced else None,
            s3_down=now["s3"].down - before["s3"].down if paced else None,
            source_connections=now["source"].peak if paced else None,
        )

    def _keep_logs(self, site: Site) -> None:
        if self.logs:
            kept = self.logs / site.bucket
            kept.mkdir(parents=True, exist_ok=True)
            for log in site.directory.glob("*.log"):
                shutil.copy(log, kept)

    def _cpu(self) -> float:
        return cpu_seconds(server.pid for server in (self.source, self.bucket, self.pacer) if server.pid)

    def _new(self, bucket: str) -> str:
        (self.disk / bucket).mkdir()
        self.bucket.make_bucket(bucket)
        return bucket

    def _site(self, bucket: str, rig: Rig, workers: int) -> Site:
        paced = rig == "capped"
        source = self.pacer.address("source") if paced else self.source.host
        endpoint = f"http://{self.pacer.address('s3')}" if paced else self.bucket.url
        return Site(source, endpoint, bucket, self.bucket, self.disk / bucket, workers)


@contextmanager
def running(directory: Path, disk: Path, logs: Path | None, *, rate: int, s3: str) -> Iterator[Bench]:
    """Run every server of both rigs during the block."""
    storage = {"filesystem": {"rootdirectory": str(directory / "source-images")}, "delete": {"enabled": True}}
    (directory / "s3").mkdir()
    with (
        Registry(directory / "source", storage) as source,
        BUCKET_SERVERS[s3](directory / "s3") as bucket,
        Pacer(directory / "pacer", source, bucket, rate=rate) as pacer,
    ):
        yield Bench(directory, disk, source, bucket, pacer, logs, count(), set())


def _settled(count: Callable[[], int]) -> int:
    """Return the count after it has not changed for a moment.

    Servers log a request after they answered it.
    """
    counted, deadline = count(), time.monotonic() + _SETTLED_WITHIN
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        if counted == (counted := count()):
            break
    return counted


def _name(case: Case) -> str:
    return f"{case.tool}-{case.shape}"


def verify(loaded: LoadedShape, bucket: str, server: BucketServer, directory: Path) -> None:
    """Read every tag and blob back through a stock registry, as a client does.

    Raises CopyIsWrong.

    A blob that images share is read once. A HEAD checks that the other images have it.
    """
    storage = server.registry_storage(bucket, server.url)
    with (
        Registry(directory / "reader", storage, descriptors_cached=False) as reader,
        ThreadPoolExecutor(_VERIFY_THREADS) as threads,
        urllib3.PoolManager(retries=False, timeout=120, maxsize=_VERIFY_THREADS) as http,
    ):
        url = f"http://{reader.host}/v2"
        list(threads.map(lambda image: _check_tag(http, url, image), loaded.images))
        blobs = {blob.digest: image.repository for image in loaded.images for blob in image.blobs}
        list(threads.map(lambda blob: _check_blob(http, url, *blob), blobs.items()))


def _check_tag(http: urllib3.PoolManager, url: str, image: SourceImage) -> None:
    address = f"{url}/{image.repository}/manifests/{image.tag}"
    answer = http.request("GET", address, headers={"Accept": media_types.OCI_MANIFEST})
    found = f"sha256:{hashlib.sha256(answer.data).hexdigest()}"
    if answer.status != 200 or found != image.digest:
        raise CopyIsWrong(f"{image.repository}:{image.tag}: {answer.status}, {found} instead of {image.digest}")
    for blob in image.blobs:
        held = http.request("HEAD", f"{url}/{image.repository}/blobs/{blob.digest}")
        if held.status != 200 or int(held.headers["Content-Length"]) != blob.size:
            raise CopyIsWrong(f"{image.repository}: {held.status} for {blob.digest}")


def _check_blob(http: urllib3.PoolManager, url: str, digest: str, repository: str) -> None:
    answer = http.request("GET", f"{url}/{repository}/blobs/{digest}", preload_content=False)
    hasher = hashlib.sha256()
    for piece in answer.stream(_PIECE):
        hasher.update(piece)
    answer.release_conn()
    if answer.status != 200 or f"sha256:{hasher.hexdigest()}" != digest:
        raise CopyIsWrong(f"{repository}: {answer.status}, sha256:{hasher.hexdigest()} instead of {digest}")
