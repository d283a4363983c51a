"""Measure the service with slow clients: ``python -m bench.slow_clients``. See docs/benchmarks.md.

It shows what slow clients cost, and how fast the service is for fast ones.

It opens thousands of connections of each slow kind, one kind at a time and then all kinds together. Meanwhile it
requests `/livez`, a small POST, small images and a large blob. ``--checkout`` measures another version of the project.
"""

from __future__ import annotations

import argparse
import http.client
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

from bench.checkout_service import CheckoutService, described
from bench.measurement import percentile
from bench.programs import REPOSITORY
from bench.report import load_text, machine, publish
from bench.resources import PeakMemory, cpu_seconds, proportional_bytes
from mirror.oci.digest import Digest
from tests.api.slow_clients import Crowd, Kind, crowds
from tests.support import images
from tests.support.servers import EmbeddedS3, ValkeyServer

LARGE: Final = 256 * 2**20
SMALL: Final = 100_000
_MIB: Final = 2**20
_PROBES: Final = 200
"""Requests of each kind, one after the other. Fewer would have no 99th percentile."""
_WITHIN: Final = 5.0
"""Seconds after which a probe counts as failed."""
_CLIENTS: Final = 32
_PAGE: Final = REPOSITORY / "docs" / "benchmarks.md"
_COMMAND: Final = "python -m bench.slow_clients"
_PLACE: Final = "slow-clients"
_HEAD: Final = (
    "| slow clients | connected | `/livez` ms | POST ms | small pull ms | 256 MiB pull, MiB/s | memory before, MiB "
    "| peak memory |\n|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Content:
    """The URL paths of the bucket's content."""

    large: str
    small: str
    tag: str
    digest: str


@dataclass(frozen=True, slots=True)
class Probes:
    """The seconds of the probes that succeeded, of *sent* ones."""

    sent: int
    took: Sequence[float]

    def __str__(self) -> str:
        """Return the median and the 99th percentile in milliseconds, after the share that failed, if any."""
        failed = self.sent - len(self.took)
        if not self.took:
            return "all failed"
        times = f"{percentile(self.took, 0.5) * 1000:.0f}, {percentile(self.took, 0.99) * 1000:.0f}"
        return f"{times} ({failed} of {self.sent} failed)" if failed else times


def main() -> None:
    parser = argparse.ArgumentParser(prog=_COMMAND)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement of fast clients")
    parser.add_argument("--checkout", type=Path, default=REPOSITORY, help="another version of the project")
    parser.add_argument("--only", choices=["slow", "quick"])
    parser.add_argument("--publish", choices=[_PLACE], help="write the result to this place in docs/benchmarks.md")
    options = parser.parse_args()
    _raise_open_files()
    heading = _heading(options.checkout)
    with (
        tempfile.TemporaryDirectory(prefix="slow-clients.") as name,
        _stores(Path(name)) as (valkey, s3),
        CheckoutService(options.checkout.resolve(), Path(name) / "service", valkey, s3, "bench") as service,
    ):
        content = _fill(s3)
        if options.only != "slow":
            _show(_measure_fast_clients(service, content, options.seconds))
        if options.only != "quick":
            lines = _show(_measure_slow_clients(service, content, options.connections))
            if options.publish:
                publish("\n".join([heading, "", *lines, ""]), _PAGE, _PLACE, _COMMAND)


def _heading(checkout: Path) -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}. {load_text(os.getloadavg()[0])} "
        f"Image Mirror {described(checkout)}."
    )


def _show(lines: Iterator[str]) -> list[str]:
    """Print each line as soon as it is known, and return all."""
    shown = []
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        shown.append(line)
    return shown


def _raise_open_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _stores(directory: Path) -> Iterator[tuple[ValkeyServer, EmbeddedS3]]:
    with (
        ValkeyServer(_new_directory(directory / "valkey")) as valkey,
        EmbeddedS3(_new_directory(directory / "s3")) as s3,
    ):
        yield valkey, s3


def _new_directory(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _fill(s3: EmbeddedS3) -> Content:
    """Put two blobs and an image into the bucket, as a worker writes them."""
    client, root = s3.client(), "bench/docker/registry/v2"
    repository = f"{root}/repositories/team/app"

    def put(key: str, body: bytes) -> None:
        client.put_object(Bucket=s3.bucket, Key=key, Body=body)

    def blob(content: bytes) -> Digest:
        digest = Digest.of(content)
        put(f"{root}/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data", content)
        put(f"{repository}/_layers/sha256/{digest.hex}/link", str(digest).encode())
        return digest

    large, small = blob(bytes(range(256)) * (LARGE // 256)), blob(b"x" * SMALL)
    image = images.image(*(images.layer(f"layer {n}") for n in range(8)))
    digest = blob(image.body)
    put(f"{repository}/_manifests/revisions/sha256/{digest.hex}/link", str(digest).encode())
    put(f"{repository}/_manifests/tags/1/current/link", str(digest).encode())
    client.close()
    base = "/v2/team/app"
    return Content(
        f"{base}/blobs/{large}", f"{base}/blobs/{small}", f"{base}/manifests/1", f"{base}/manifests/{digest}"
    )


def _measure_slow_clients(service: CheckoutService, content: Content, count: int) -> Iterator[str]:
    yield from _HEAD.splitlines()
    for kinds in [(), *((kind,) for kind in get_args(Kind)), get_args(Kind)]:
        before = proportional_bytes(_roots(service))
        members = [Crowd(kind, service.port, count, _paths(kind, content), service.token) for kind in kinds]
        with PeakMemory(lambda: {"service": _roots(service)}) as memory, crowds(*members):
            livez = _probe(lambda: _request(service, "GET", "/livez"))
            posted = _probe(lambda: _request(service, "POST", "/v1/jobs", b'{"source": "alpine:3"}'))
            small = _probe(lambda: _pull_small(service, content))
            pulled = _pull_large(service.port, content.large)
            alive = sum(crowd.alive for crowd in members)
            unserved = sum(crowd.count - crowd.served for crowd in members if crowd.kind == "reading")
        if unserved:
            raise SystemExit(f"{unserved} slow readers were sent nothing")
        cells = [
            _title(kinds, count),
            alive,
            livez,
            posted,
            small,
            pulled,
            before // _MIB,
            memory.peaks["service"] // _MIB,
        ]
        yield f"| {' | '.join(map(str, cells))} |"


def _title(kinds: Sequence[Kind], count: int) -> str:
    if len(kinds) > 1:
        return f"all five, {count} of each"
    return f"{count} {kinds[0]}" if kinds else "none"


def _paths(kind: Kind, content: Content) -> tuple[str, ...]:
    return (content.large,) if kind == "reading" else ("/livez",)


def _roots(service: CheckoutService) -> list[int]:
    return [service.pid or 0]


def _probe(probe: Callable[[], bool]) -> Probes:
    """Call *probe* again and again. One that returns False or raises has failed.

    If the first one only fails after a long wait, so would all others. They count as failed.
    """
    took: list[float] = []
    for _ in range(_PROBES):
        began = time.monotonic()
        try:
            if probe():
                took.append(time.monotonic() - began)
        except (OSError, http.client.HTTPException):
            if not took and time.monotonic() - began > _WITHIN * 0.9:
                break
    return Probes(_PROBES, took)


def _request(service: CheckoutService, method: str, path: str, body: bytes | None = None) -> bool:
    """Send one request over its own connection, and return whether it succeeded."""
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=_WITHIN)) as connection:
        connection.request(method, path, body, service.headers if body else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status < 400


def _pull_small(service: CheckoutService, content: Content) -> bool:
    """Pull a manifest by its tag and a blob of 100 KB. Return whether both have their digests."""
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=_WITHIN)) as connection:
        for path, found_at in ((content.tag, content.digest), (content.small, content.small)):
            connection.request("GET", path)
            answer = connection.getresponse()
            if str(Digest.of(answer.read())) != found_at.rpartition("/")[2]:
                return False
    return True


def _pull_large(port: int, path: str) -> str:
    """Read a whole blob, and return the MiB per second."""
    began = time.monotonic()
    buffer, received = bytearray(_MIB), 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_WITHIN)) as connection:
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            while count := answer.readinto(buffer):
                received += count
        except (OSError, http.client.HTTPException):
            return "failed"
    return f"{received / _MIB / (time.monotonic() - began):.0f}" if received == LARGE else "failed"


def _measure_fast_clients(service: CheckoutService, content: Content, seconds: float) -> Iterator[str]:
    requests = {
        "manifest by tag": ("GET", content.tag),
        "manifest by digest": ("GET", content.digest),
        "HEAD by tag": ("HEAD", content.tag),
        "blob of 100 KB": ("GET", content.small),
        "livez": ("GET", "/livez"),
    }
    for name, (method, path) in requests.items():
        yield f"{name:24} {_load(service, method, path, seconds, _CLIENTS)}"
    for clients in (1, 4, 16):
        yield f"{f'blob of 256 MiB, {clients} at once':24} {_load(service, 'GET', content.large, seconds, clients)}"


def _load(service: CheckoutService, method: str, path: str, seconds: float, clients: int) -> str:
    """Send requests over kept connections, and describe the service's speed.

    That is requests per second, the 99th percentile of their time, and the CPU time for each.
    """
    took: list[float] = []
    lengths: list[int] = []
    until = time.monotonic() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        buffer = bytearray(_MIB)
        while time.monotonic() < until:
            began = time.monotonic()
            connection.request(method, path)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise SystemExit(f"{path}: {answer.status}")
            while count := answer.readinto(buffer):
                lengths.append(count)
            took.append(time.monotonic() - began)
        connection.close()

    began, cpu = time.monotonic(), cpu_seconds(_roots(service))
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, cpu = time.monotonic() - began, cpu_seconds(_roots(service)) - cpu
    moved, slow = sum(lengths), percentile(took, 0.99)
    rate = f"{moved / _MIB / elapsed:.0f} MiB/s" if moved > LARGE else f"{len(took) / elapsed:.0f} req/s"
    cost = f"{cpu / moved * 1e9:.2f} CPU s/GB" if moved > LARGE else f"{cpu / len(took) * 1000:.1f} ms CPU each"
    return f"{rate:14} p99 {slow * 1000:.0f} ms  {cost}"


if __name__ == "__main__":
    main()
