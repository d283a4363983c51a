"""What is measured: the requests and pulls that `bench/loadgen` sends, and what one measurement found."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Self

from bench.measurement import percentile
from bench.programs import require
from bench.resources import cpu_seconds
from bench.serving.servers import Mode, Running, StoredImage
from mirror.oci import media_types

CLIENTS: Final = 32
_RUN_WITHIN: Final = 900.0


class ServingIsWrong(Exception):
    """A server gave a wrong answer, so the measurement is invalid. The message ends with what was wrong."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement of one server. *rate* is requests or pulls a second. CPU time is for one request or pull.

    *s3_ms* and *client_ms* are those of the S3 server and of the load generator, on the same cores.
    """

    seconds: float
    rate: float
    p99_ms: float
    cpu_ms: float
    s3_ms: float
    client_ms: float
    errors: int

    @classmethod
    def median(cls, several: Sequence[Self]) -> Self:
        """Return the median of each field. Errors are added up."""
        return cls(
            seconds=median(one.seconds for one in several),
            rate=median(one.rate for one in several),
            p99_ms=median(one.p99_ms for one in several),
            cpu_ms=median(one.cpu_ms for one in several),
            s3_ms=median(one.s3_ms for one in several),
            client_ms=median(one.client_ms for one in several),
            errors=sum(one.errors for one in several),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of load. *mode* is how the server serves blobs meanwhile.

    A row that is *cold* requests each object once, right after the server's start. A row with *pulls* pulls whole
    images. Any other requests the same objects again and again, after a second of that to warm up.
    """

    title: str
    mode: Mode
    requests: Callable[[str, Sequence[StoredImage]], Iterable[dict[str, Any]]]
    cold: bool = False
    pulls: int = 0

    def job(self, base: str, images: Sequence[StoredImage], seconds: float) -> dict[str, Any]:
        """Return the job for `bench/loadgen`."""
        found = list(self.requests(base, images))
        if self.pulls:
            return {"clients": CLIENTS, "pulls": self.pulls, "images": found}
        return {"clients": CLIENTS, "seconds": 0 if self.cold else seconds, "requests": found}


def rows(pulls: Sequence[int]) -> list[Row]:
    """Return all rows in the order of the table.

    *pulls* are the numbers of pulls. Only the first number is also streamed, so that a run stays short.
    """
    return [
        Row("manifest by tag", "redirecting", _manifests("GET", by_tag=True)),
        Row("manifest by digest", "redirecting", _manifests("GET", by_tag=False)),
        Row("HEAD by tag", "redirecting", _manifests("HEAD", by_tag=True)),
        Row("blob of 100 KB, streamed", "streaming", _large_blobs(200)),
        Row("blob, 307", "redirecting", _large_blobs(307)),
        Row("cold: manifest by tag", "redirecting", _manifests("GET", by_tag=True), cold=True),
        Row("cold: blob, streamed", "streaming", _every_blob(200), cold=True),
        Row("cold: blob, 307", "redirecting", _every_blob(307), cold=True),
        *(Row(f"{n} pulls, redirecting", "redirecting", _pulls(redirected=True), pulls=n) for n in pulls),
        *(Row(f"{n} pulls, streaming", "streaming", _pulls(redirected=False), pulls=n) for n in pulls[:1]),
    ]


def measure(row: Row, server: Running, images: Sequence[StoredImage], s3: int, seconds: float) -> Measurement:
    """Put the row's load on *server* for *seconds*. *s3* is the S3 server's process. Raises ServingIsWrong."""
    if not row.cold and not row.pulls:
        _run(row.job(server.url, images, 1.0))
    cpu, s3_cpu = cpu_seconds(server.roots), cpu_seconds([s3])
    found = _run(row.job(server.url, images, seconds))
    cpu, s3_cpu = cpu_seconds(server.roots) - cpu, cpu_seconds([s3]) - s3_cpu
    count = len(found["latencies_us"])
    return Measurement(
        seconds=found["seconds"],
        rate=count / found["seconds"],
        p99_ms=percentile(found["latencies_us"], 0.99) / 1000,
        cpu_ms=cpu / count * 1000,
        s3_ms=s3_cpu / count * 1000,
        client_ms=found["cpu_seconds"] / count * 1000,
        errors=found["errors"],
    )


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    command, text = [require("loadgen")], json.dumps(job)
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_RUN_WITHIN, check=False)
    except subprocess.TimeoutExpired as error:
        raise ServingIsWrong(f"the load takes more than {_RUN_WITHIN:.0f} s") from error
    if done.returncode:
        raise ServingIsWrong(done.stderr.strip())
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _manifests(method: str, *, by_tag: bool) -> Callable[[str, Sequence[StoredImage]], Iterator[dict[str, Any]]]:
    def requests(base: str, images: Sequence[StoredImage]) -> Iterator[dict[str, Any]]:
        for image in images:
            url = image.url(base, "manifests", image.tag if by_tag else image.digest)
            found = _request(url, 200, image.digest, image.length)
            yield {**found, "method": method, "accept": media_types.OCI_MANIFEST}

    return requests


def _large_blobs(status: int) -> Callable[[str, Sequence[StoredImage]], Iterator[dict[str, Any]]]:
    def requests(base: str, images: Sequence[StoredImage]) -> Iterator[dict[str, Any]]:
        for image in images:
            yield _request(image.url(base, "blobs", image.large), status, image.large, image.blobs[image.large])

    return requests


def _every_blob(status: int) -> Callable[[str, Sequence[StoredImage]], Iterator[dict[str, Any]]]:
    def requests(base: str, images: Sequence[StoredImage]) -> Iterator[dict[str, Any]]:
        for image in images:
            for digest, size in image.blobs.items():
                yield _request(image.url(base, "blobs", digest), status, digest, size)

    return requests


def _pulls(*, redirected: bool) -> Callable[[str, Sequence[StoredImage]], Iterator[dict[str, Any]]]:
    def pulled(base: str, images: Sequence[StoredImage]) -> Iterator[dict[str, Any]]:
        for image in images:
            place = {"base": base, "repository": image.repository, "tag": image.tag, "digest": image.digest}
            yield {**place, "redirected": redirected}

    return pulled


def _request(url: str, status: int, digest: str, length: int) -> dict[str, Any]:
    return {"method": "GET", "url": url, "status": status, "digest": digest, "length": length}
