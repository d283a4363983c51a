"""CNCF distribution's registry 2.8, Debian's `docker-registry`.

It is a real source, and a stock reader of our bucket.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from tests.support.servers.process import START_WITHIN, Server, program
from tests.support.servers.s3 import REGION, S3Server

_REQUEST: Final = re.compile(r'"([A-Z]+) (\S+) HTTP/[0-9.]+" \d{3} ')
_INSTANCE: Final = "X-Test-Instance"
_MARKER: Final = "/v2/?marker="


@dataclass(frozen=True, slots=True)
class FilesystemStorage:
    """Storage in the folder *root*."""

    root: Path

    def configuration(self) -> dict[str, Any]:
        return {"filesystem": {"rootdirectory": str(self.root)}}


@dataclass(frozen=True, slots=True)
class S3Storage:
    """Storage in the bucket of *server* under *prefix*."""

    server: S3Server
    prefix: str = ""

    def configuration(self) -> dict[str, Any]:
        driver = {
            "accesskey": self.server.access_key,
            "secretkey": self.server.secret_key,
            "region": REGION,
            "regionendpoint": self.server.url,
            "forcepathstyle": True,
            "bucket": self.server.bucket,
            "rootdirectory": f"/{self.prefix}",
            "secure": False,
            "v4auth": True,
        }
        return {"s3": driver, "redirect": {"disable": True}}


class DockerRegistry(Server):
    """A registry without a login.

    It has no blob descriptor cache, so it sees at once what others write. With *legacy* it accepts foreign layers that
    have URLs, and serves Docker schema 1.
    """

    name = "docker-registry"

    def __init__(
        self, directory: Path, storage: FilesystemStorage | S3Storage | None = None, *, legacy: bool = False
    ) -> None:
        super().__init__(directory)
        self.legacy = legacy
        self.storage = storage or FilesystemStorage(directory / "registry")
        self._instance = secrets.token_hex(16)

    @property
    def host(self) -> str:
        """Return ``host:port``, the first part of a reference."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {**self.storage.configuration(), "delete": {"enabled": True}},
            "http": {
                "addr": self.host,
                "secret": self._instance,
                "headers": {_INSTANCE: [self._instance]},
            },
        }
        if self.legacy:
            configuration["compatibility"] = {"schema1": {"enabled": True}}
            configuration["validation"] = {"manifests": {"urls": {"allow": ["^https://"]}}}
        path = self.directory / "registry.yml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(configuration))  # JSON is YAML
        return [str(program("docker-registry")), "serve", str(path)]

    def environment(self) -> Mapping[str, str]:
        # The S3 driver of 2.8 panics at the start if AWS_CA_BUNDLE is set. It must not look for a trace collector.
        return {"AWS_CA_BUNDLE": "", "OTEL_TRACES_EXPORTER": "none"}

    def answers(self) -> bool:
        return self._get(_marker()) == self._instance

    def requests(self) -> list[tuple[str, str]]:
        """Return method and path with query of every logged request, oldest first.

        This sends a marker request and waits until it is logged. So all earlier requests are in the list.
        """
        marker = _marker()
        assert self._get(marker) == self._instance, "the registry has ended"
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            found: list[tuple[str, str]] = _REQUEST.findall(self.log.read_text(errors="replace"))
            if ("GET", marker) in found:
                return [request for request in found if not request[1].startswith(_MARKER)]
        raise AssertionError("the registry does not log its requests")

    def _get(self, path: str) -> str | None:
        """Return the instance that sent the response, or None if there was none."""
        with urllib3.PoolManager(retries=False, timeout=5) as http:
            try:
                return http.request("GET", self.url + path).headers.get(_INSTANCE)
            except urllib3.exceptions.HTTPError:
                return None


def _marker() -> str:
    return f"{_MARKER}{secrets.token_hex(8)}"
