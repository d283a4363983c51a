"""Measure the service with slow clients: ``python -m bench.slow_clients``.

It shows what slow clients cost, and how fast the service is for fast ones.

It opens thousands of connections of each slow kind, one kind at a time and then all kinds together. Meanwhile it
requests `/livez`, a small POST and a whole blob. ``--checkout`` measures another version of the project.
"""

from __future__ import annotations

import argparse
import http.client
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from bench.resources import cpu_seconds, proportional_bytes
from mirror.oci.digest import Digest
from tests.api.live_service import LiveService
from tests.api.slow_clients import Crowd, Kind, crowds
from tests.support import images
from tests.support.servers import EmbeddedS3, ValkeyServer

LARGE: Final = 256 * 2**20
SMALL: Final = 100_000
_MIB: Final = 2**20
_PROBES: Final = 50
_WITHIN: Final = 5.0
"""Seconds after which a probe counts as failed."""
_CLIENTS: Final = 32


@dataclass(frozen=True, slots=True)
class Content:
    """The URL paths of the bucket's content."""

    large: str
    small: str
    tag: str
    digest: str


class Service(LiveService):
    """The service of another checkout, if one is given."""

    checkout: Path | None = None

    def environment(self) -> Mapping[str, str]:
        found = dict(super().environment())
        return found | {"PYTHONPATH": str(self.checkout)} if self.checkout else found

    def command(self) -> list[str]:
        own = self.checkout / ".venv/bin/python" if self.checkout else Path(sys.executable)
        return [str(own), "-m", "service"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.slow_clients")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement of fast clients")
    parser.add_argument("--checkout", type=Path, help="another version of the project, with a .venv")
    parser.add_argument("--only", choices=["slow", "quick"])
    options = parser.parse_args()
    _raise_open_files()
    Service.checkout = options.checkout
    with (
        tempfile.TemporaryDirectory(prefix="slow-clients.") as name,
        _stores(Path(name)) as (valkey, s3),
        Service(_new_directory(Path(name) / "service"), valkey, s3, "bench") as service,
    ):
        content = _fill(s3)
        if options.only != "slow":
            _show(_measure_fast_clients(service, content, options.seconds))
        if options.only != "quick":
            _show(_measure_slow_clients(service, content, options.connections))


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


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


def _measure_slow_clients(service: Service, content: Content, count: int) -> Iterator[str]:
    for kinds in [(), *((kind,) for kind in get_args(Kind)), get_args(Kind)]:
        before = _resident(service)
        members = [Crowd(kind, service.port, count, _path(kind, content), service.token) for kind in kinds]
        with crowds(*members):
            time.sleep(3)
            livez = _probe(service.port, "GET", "/livez")
            posted = _probe(service.port, "POST", "/v1/jobs", service.token, b'{"source": "alpine:3"}')
            pulled = _pull(service.port, content.large)
            after = _resident(service)
            alive = sum(crowd.alive for crowd in members)
        yield (
            f"{' + '.join(kinds) or 'no slow client':60} alive {alive:5}  livez {livez}  POST {posted}  "
            f"256 MiB pull {pulled}  memory {before // _MIB} -> {after // _MIB} MiB"
        )


def _path(kind: Kind, content: Content) -> str:
    return content.large if kind == "reading" else "/livez"


def _resident(service: Service) -> int:
    return proportional_bytes([service.pid or 0])


def _probe(port: int, method: str, path: str, token: str = "", body: bytes | None = None) -> str:
    """Send many requests, each over its own connection.

    Return how many succeeded, the median and the slowest.
    """
    took = []
    for _ in range(_PROBES):
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WITHIN)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {token}"} if token else {})
            answer = connection.getresponse()
            answer.read()
            if answer.status < 400:
                took.append(time.monotonic() - began)
        except (OSError, http.client.HTTPException):
            if not took and time.monotonic() - began > _WITHIN * 0.9:
                break
        finally:
            connection.close()
    if not took:
        return "0 answered"
    return f"{len(took)}/{_PROBES} {statistics.median(took) * 1000:.0f}/{max(took) * 1000:.0f} ms"


def _pull(port: int, path: str) -> str:
    """Read a whole blob, and return the throughput."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WITHIN)
    buffer, received = bytearray(_MIB), 0
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        while count := answer.readinto(buffer):
            received += count
    except (OSError, http.client.HTTPException):
        return "failed"
    finally:
        connection.close()
    return f"{received / _MIB / (time.monotonic() - began):.0f} MiB/s"


def _measure_fast_clients(service: Service, content: Content, seconds: float) -> Iterator[str]:
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


def _load(service: Service, method: str, path: str, seconds: float, clients: int) -> str:
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

    began, cpu = time.monotonic(), cpu_seconds([service.pid or 0])
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, cpu = time.monotonic() - began, cpu_seconds([service.pid or 0]) - cpu
    moved, slow = sum(lengths), _quantile(took, 0.99)
    rate = f"{moved / _MIB / elapsed:.0f} MiB/s" if moved > LARGE else f"{len(took) / elapsed:.0f} req/s"
    cost = f"{cpu / moved * 1e9:.2f} CPU s/GB" if moved > LARGE else f"{cpu / len(took) * 1000:.1f} ms CPU each"
    return f"{rate:14} p99 {slow * 1000:.0f} ms  {cost}"


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    main()
