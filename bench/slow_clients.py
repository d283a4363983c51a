"""``python -m bench.slow_clients``: what slow clients cost the service, and how fast it serves quick ones.

Thousands of connections of every slow kind, one kind at a time and then all together. Meanwhile `/livez`, a small
POST and a whole blob are asked for. ``--checkout`` measures another version of the project with the same script.
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

from bench.processes import cpu_seconds, proportional_bytes
from mirror.oci.digest import Digest
from tests import images
from tests.api.live_service import LiveService
from tests.api.slow_clients import Crowd, Kind, crowds
from tests.servers import EmbeddedS3, ValkeyServer

LARGE: Final = 256 * 2**20
SMALL: Final = 100_000
_MIB: Final = 2**20
_PROBES: Final = 50
_WITHIN: Final = 5.0
"""Seconds after which a probe counts as not answered."""
_CLIENTS: Final = 32


@dataclass(frozen=True, slots=True)
class Held:
    """Paths of what the bucket holds."""

    large: str
    small: str
    tag: str
    digest: str


class Service(LiveService):
    """The service of a checkout."""

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
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement of quick clients")
    parser.add_argument("--checkout", type=Path, help="another version of the project, with a .venv")
    parser.add_argument("--only", choices=["slow", "quick"])
    options = parser.parse_args()
    raise_open_files()
    Service.checkout = options.checkout
    with (
        tempfile.TemporaryDirectory(prefix="slow-clients.") as name,
        stores(Path(name)) as (valkey, s3),
        Service(made(Path(name) / "service"), valkey, s3, "bench") as service,
    ):
        held = filled(s3)
        if options.only != "slow":
            say(quick(service, held, options.seconds))
        if options.only != "quick":
            say(slow(service, held, options.connections))


def say(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def raise_open_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def stores(directory: Path) -> Iterator[tuple[ValkeyServer, EmbeddedS3]]:
    with ValkeyServer(made(directory / "valkey")) as valkey, EmbeddedS3(made(directory / "s3")) as s3:
        yield valkey, s3


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def filled(s3: EmbeddedS3) -> Held:
    """Put two blobs and an image into the bucket, as a worker leaves them."""
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
    return Held(f"{base}/blobs/{large}", f"{base}/blobs/{small}", f"{base}/manifests/1", f"{base}/manifests/{digest}")


def slow(service: Service, held: Held, count: int) -> Iterator[str]:
    for kinds in [(), *((kind,) for kind in get_args(Kind)), get_args(Kind)]:
        before = resident(service)
        members = [Crowd(kind, service.port, count, _path(kind, held), service.token) for kind in kinds]
        with crowds(*members):
            time.sleep(3)
            livez = probed(service.port, "GET", "/livez")
            posted = probed(service.port, "POST", "/v1/jobs", service.token, b'{"source": "alpine:3"}')
            pulled = pull(service.port, held.large)
            after = resident(service)
            alive = sum(crowd.alive for crowd in members)
        yield (
            f"{' + '.join(kinds) or 'nobody slow':60} alive {alive:5}  livez {livez}  POST {posted}  "
            f"256 MiB pull {pulled}  memory {before // _MIB} -> {after // _MIB} MiB"
        )


def _path(kind: Kind, held: Held) -> str:
    return held.large if kind == "reading" else "/livez"


def resident(service: Service) -> int:
    return proportional_bytes([service.pid or 0])


def probed(port: int, method: str, path: str, token: str = "", body: bytes | None = None) -> str:
    """Of many requests, each over a connection of its own: how many were answered, median and slowest."""
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


def pull(port: int, path: str) -> str:
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


def quick(service: Service, held: Held, seconds: float) -> Iterator[str]:
    requests = {
        "manifest by tag": ("GET", held.tag),
        "manifest by digest": ("GET", held.digest),
        "HEAD by tag": ("HEAD", held.tag),
        "blob of 100 KB": ("GET", held.small),
        "livez": ("GET", "/livez"),
    }
    for name, (method, path) in requests.items():
        yield f"{name:24} {hammered(service, method, path, seconds, _CLIENTS)}"
    for clients in (1, 4, 16):
        yield f"{f'blob of 256 MiB, {clients} at once':24} {hammered(service, 'GET', held.large, seconds, clients)}"


def hammered(service: Service, method: str, path: str, seconds: float, clients: int) -> str:
    """Requests a second over kept connections, the 99th percentile, and the service's CPU for each."""
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

    began, spent = time.monotonic(), cpu_seconds([service.pid or 0])
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, spent = time.monotonic() - began, cpu_seconds([service.pid or 0]) - spent
    moved, late = sum(lengths), quantile(took, 0.99)
    rate = f"{moved / _MIB / elapsed:.0f} MiB/s" if moved > LARGE else f"{len(took) / elapsed:.0f} req/s"
    cost = f"{spent / moved * 1e9:.2f} CPU s/GB" if moved > LARGE else f"{spent / len(took) * 1000:.1f} ms CPU each"
    return f"{rate:14} p99 {late * 1000:.0f} ms  {cost}"


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    main()
