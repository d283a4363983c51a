"""The servers that the benchmark runs: the source, the bucket, stock registries on it, and the pacing proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from bench.programs import require
from tests.servers.process import Server, free_port

CAP: Final = 90_000_000
"""Bytes per second of a paced connection in one direction: what one connection to S3 or to a large registry gives."""
LATENCY_MS: Final = 15


class Registry(Server):
    """A stock registry as its own image configures it, but for the storage. Debian's 2.8 if there is no newer one."""

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
class LinkCounters:
    """What passed a link since the proxy started; *peak* is of open connections, since it was last read."""

    up: int
    down: int
    connections: int
    peak: int


class Pacer(Server):
    """The proxy before the source and before S3 (`bench/pacer`)."""

    name = "pacer"

    def __init__(self, directory: Path, source: Server, bucket: Server, *, rate: int = CAP) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        self._servers = {"source": source, "s3": bucket}
        self._rate = rate
        self._listens: dict[str, int] = {}

    def address(self, link: str) -> str:
        """``host:port`` of the link *source* or *s3*."""
        return f"127.0.0.1:{self._listens[link]}"

    def command(self) -> list[str]:
        self._listens = {name: free_port() for name in self._servers}
        links = [f"{name}={self.address(name)},127.0.0.1:{server.port}" for name, server in self._servers.items()]
        limits = ["-rate", str(self._rate), "-latency", f"{LATENCY_MS}ms"]
        return [str(require("pacer")), *limits, "-control", f"127.0.0.1:{self.port}", *links]

    def answers(self) -> bool:
        return _answers(self.url)

    def counters(self) -> dict[str, LinkCounters]:
        """By link; begins the peaks anew."""
        answer = urllib3.request("GET", self.url, timeout=5).json()
        return {name: LinkCounters(**counters) for name, counters in answer.items()}


def _answers(url: str) -> bool:
    with urllib3.PoolManager(retries=False, timeout=5) as http:
        try:
            return http.request("GET", url).status == 200
        except urllib3.exceptions.HTTPError:
            return False
