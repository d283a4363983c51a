"""The servers of the benchmark: stock registries, S3 servers, the pacing proxy."""

from __future__ import annotations

import json
import re
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from bench.programs import require
from tests.support.servers.process import Server, free_port
from tests.support.servers.s3 import REGION, S3Server, VersityGateway

CAP: Final = 90_000_000
"""Bytes per second of a paced connection in one direction: typical for one connection to S3 or a large registry."""
LATENCY_MS: Final = 15
"""Milliseconds of a paced round trip."""
_SOURCE_LINE: Final = re.compile(rb'"[A-Z]+ \S+ HTTP/[0-9.]+" \d{3} (\d+) ')
_VERSITY_LINE: Final = re.compile(rb"^\S+ \S+ \[[^]]+\] \S+ \S+ \S+ (?:s3_)?\w+ ", re.MULTILINE)
_MINIO_LINE: Final = re.compile(r'^minio_api_requests_total\{[^}]*type="s3"[^}]*\} (\S+)$', re.MULTILINE)


class Registry(Server):
    """A stock registry configured as in its own image, except for the storage.

    It is Debian's 2.8 if no newer one is installed.
    """

    name = "registry"

    def __init__(self, directory: Path, storage: Mapping[str, Any], *, descriptors_cached: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        self._storage = {**storage, "cache": {"blobdescriptor": "inmemory"}} if descriptors_cached else storage

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        configuration = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": self._storage,
            "http": {"addr": self.host, "secret": "one instance needs none"},
        }
        path = self.directory / "registry.yml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(configuration))  # JSON is YAML
        return [str(require("registry", "docker-registry")), "serve", str(path)]

    def environment(self) -> Mapping[str, str]:
        return {"AWS_CA_BUNDLE": "", "OTEL_TRACES_EXPORTER": "none"}

    def answers(self) -> bool:
        return _answers(f"{self.url}/v2/")


@dataclass(frozen=True, slots=True)
class SourceTraffic:
    """What the source registry has sent. *bytes* are the bodies."""

    requests: int
    bytes: int


class AccessLog:
    """A growing log file. `since` returns what was added after an earlier `position`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def position(self) -> int:
        return self._path.stat().st_size

    def since(self, position: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(position)
            return file.read()


def source_traffic(log: bytes) -> SourceTraffic:
    """Count the requests and body bytes in a registry's access log."""
    bodies = [int(body) for body in _SOURCE_LINE.findall(log)]
    return SourceTraffic(len(bodies), sum(bodies))


class BucketServer(S3Server):
    """An S3 server for one run, in which every copy has its own bucket.

    Neither server computes the MD5 of a part unless a request needs it. That would take longer than all else that the
    server does, and a real S3 does it on its own machines.
    """

    @abstractmethod
    def requests(self) -> int:
        """Return the number of requests that it has answered since it started."""

    @abstractmethod
    def drop_bucket(self, name: str) -> None:
        """Delete the bucket's files directly.

        Over S3 that would take a request for each object.
        """

    def make_bucket(self, name: str) -> None:
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()

    def registry_storage(self, bucket: str, endpoint: str) -> dict[str, Any]:
        """Return a stock registry's storage configuration for *bucket*.

        It has the driver's defaults (parts of 10 MiB).
        """
        driver = {
            "accesskey": self.access_key,
            "secretkey": self.secret_key,
            "region": REGION,
            "regionendpoint": endpoint,
            "forcepathstyle": True,
            "bucket": bucket,
            "secure": False,
        }
        return {"s3": driver, "redirect": {"disable": True}, "delete": {"enabled": True}}


class Minio(BucketServer):
    """MinIO. Like S3, it completes an upload without reading the parts again."""

    name = "minio"

    def command(self) -> list[str]:
        address = ["--address", f"127.0.0.1:{self.port}"]
        return [str(require("minio")), "server", "--no-compat", "--quiet", *address, str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_PROMETHEUS_AUTH_TYPE": "public",
            "MINIO_BROWSER": "off",
            "MINIO_SCANNER_SPEED": "slowest",
        }

    def requests(self) -> int:
        """Return the count of its metrics, which are not cached."""
        return minio_requests(
            urllib3.request("GET", f"{self.url}/minio/metrics/v3/api/requests", timeout=5).data.decode()
        )

    def drop_bucket(self, name: str) -> None:
        """Delete the bucket and MinIO's trash.

        MinIO itself empties its trash only every five minutes.
        """
        own = self.data / ".minio.sys"
        for folder in (self.data / name, own / "buckets" / name, *(own / "tmp" / ".trash").iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


class Versity(VersityGateway, BucketServer):
    """The Versity gateway.

    It is strict, and joins the parts of a completed upload into one file.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._access_log = directory / "access.log"

    def command(self) -> list[str]:
        program, *rest, data = super().command()
        return [program, "--access-log", str(self._access_log), *rest, "--data-integrity-etag", data]

    def requests(self) -> int:
        """Return the number of lines in its access log."""
        return len(_VERSITY_LINE.findall(self._access_log.read_bytes()))

    def drop_bucket(self, name: str) -> None:
        for folder in (self.data, self.directory / "metadata"):
            shutil.rmtree(folder / name, ignore_errors=True)


def minio_requests(metrics: str) -> int:
    """Return the number of S3 requests in MinIO's metrics."""
    return sum(int(float(count)) for count in _MINIO_LINE.findall(metrics))


BUCKET_SERVERS: Final[Mapping[str, type[BucketServer]]] = {"minio": Minio, "versitygw": Versity}


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What passed a link since the proxy started.

    *peak* is the most connections open at once since the counters were last read.
    """

    up: int
    down: int
    connections: int
    peak: int


class Pacer(Server):
    """The proxy in front of the source and of S3 (`bench/pacer`)."""

    name = "pacer"

    def __init__(self, directory: Path, source: Server, bucket: Server, *, rate: int = CAP) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        self._servers = {"source": source, "s3": bucket}
        self._rate = rate
        self._listens: dict[str, int] = {}

    def address(self, link: str) -> str:
        """Return ``host:port`` of the link *source* or *s3*."""
        return f"127.0.0.1:{self._listens[link]}"

    def command(self) -> list[str]:
        self._listens = {name: free_port() for name in self._servers}
        links = [f"{name}={self.address(name)},127.0.0.1:{server.port}" for name, server in self._servers.items()]
        limits = ["-rate", str(self._rate), "-latency", f"{LATENCY_MS}ms"]
        return [str(require("pacer")), *limits, "-control", f"127.0.0.1:{self.port}", *links]

    def answers(self) -> bool:
        return _answers(self.url)

    def counters(self) -> dict[str, LinkCounters]:
        """Return the counters of each link, and reset the peaks."""
        answer = urllib3.request("GET", self.url, timeout=5).json()
        return {name: LinkCounters(**counters) for name, counters in answer.items()}


def _answers(url: str) -> bool:
    with urllib3.PoolManager(retries=False, timeout=5) as http:
        try:
            return http.request("GET", url).status == 200
        except urllib3.exceptions.HTTPError:
            return False
