"""All the servers of a run: both rigs share them, one through the pacing proxy and one directly."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.buckets import BUCKET_SERVERS, BucketServer
from bench.contender import Contender, Copying, Site
from bench.measurement import Case, Measurement, Rig
from bench.memory import freed_in_huge_pages
from bench.processes import PeakMemory, cpu_seconds
from bench.servers import Pacer, Registry
from bench.source import LoadedShape
from bench.traffic import AccessLog, asked_of_source
from bench.verification import verify

_SETTLED_WITHIN = 2.0
_POLL = 0.05
_WORKING_MEMORY = 512 * 2**20
"""Bytes for each worker."""


@dataclass(slots=True)
class Bench:
    """Copies, one at a time, each into a bucket of its own that is read back and thrown away.

    *directory* holds what should be as fast as it can be, for all alike (source, bucket); *disk* what is on a disk in
    real life: Redis waits for its fsync. What contenders log is thrown away with their buckets, unless *logs* is given.
    """

    directory: Path
    disk: Path
    source: Registry
    bucket: BucketServer
    pacer: Pacer
    logs: Path | None
    _numbers: Iterator[int]
    _warm: set[str]

    def copy(self, case: Case, contender: Contender, loaded: LoadedShape) -> Measurement:
        """One measured copy. Raises CopyFailed or CopyIsWrong."""
        warm = loaded.shape.warm
        bucket = self._filled(case, contender, loaded) if warm else self._new(f"{_name(case)}-{next(self._numbers)}")
        site = self._site(bucket, case.rig, case.workers)
        with contender.ready(site) as copying:
            measured = self._measured(case, copying, loaded)
        self._keep_logs(site)
        verify(loaded, bucket, self.bucket, site.directory)
        if not warm:
            self.bucket.drop_bucket(bucket)
            shutil.rmtree(site.directory)
        return measured

    def _filled(self, case: Case, contender: Contender, loaded: LoadedShape) -> str:
        """A bucket into which the same contender copied everything before, without the proxy: one for both rigs, since
        copying again changes nothing.
        """
        bucket = _name(case)
        if bucket not in self._warm:
            with contender.ready(self._site(self._new(bucket), "loopback", case.workers)) as copying:
                copying.copy(loaded.images)
            self._warm.add(bucket)
        return bucket

    def _measured(self, case: Case, copying: Copying, loaded: LoadedShape) -> Measurement:
        log = AccessLog(self.source.log)
        position, requests = _settled(log.position), _settled(self.bucket.requests)
        freed_in_huge_pages(_WORKING_MEMORY * case.workers)
        passed, cpu, rig_cpu = self.pacer.counters(), copying.cpu(), self._cpu()
        with PeakMemory(copying.memory) as memory:
            begun = time.perf_counter()
            copying.copy(loaded.images)
            seconds = time.perf_counter() - begun
        spent = {group: after - cpu[group] for group, after in copying.cpu().items()}
        rig_spent = self._cpu() - rig_cpu
        _settled(log.position)
        asked, paced, now = asked_of_source(log.since(position)), case.rig == "capped", self.pacer.counters()
        return Measurement(
            seconds=seconds,
            cpu=spent,
            memory=memory.peaks,
            rig_cpu=rig_spent,
            source_requests=asked.requests,
            source_bytes=asked.bytes,
            s3_requests=_settled(self.bucket.requests) - requests,
            s3_up=now["s3"].up - passed["s3"].up if paced else None,
            s3_down=now["s3"].down - passed["s3"].down if paced else None,
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
    """Every server of both rigs, ended with the block."""
    storage = {"filesystem": {"rootdirectory": str(directory / "source-images")}, "delete": {"enabled": True}}
    (directory / "s3").mkdir()
    with (
        Registry(directory / "source", storage) as source,
        BUCKET_SERVERS[s3](directory / "s3") as bucket,
        Pacer(directory / "pacer", source, bucket, rate=rate) as pacer,
    ):
        yield Bench(directory, disk, source, bucket, pacer, logs, count(), set())


def _settled(count: Callable[[], int]) -> int:
    """What is counted once nothing has been added for a moment: a line is written after its answer was sent."""
    counted, deadline = count(), time.monotonic() + _SETTLED_WITHIN
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        if counted == (counted := count()):
            break
    return counted


def _name(case: Case) -> str:
    return f"{case.contender}-{case.shape}"
