"""The S3 servers that the benchmark can copy into, each with a bucket for every copy.

Neither makes an MD5 of a part that nobody asked for: it takes longer than all else that is done with it. A real S3
spends that on its own machines.
"""

from __future__ import annotations

import re
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import urllib3

from bench.programs import require
from tests.servers.s3 import REGION, S3Server
from tests.servers.versity import VersityGateway

_VERSITY_LINE: Final = re.compile(rb"^\S+ \S+ \[[^]]+\] \S+ \S+ \S+ (?:s3_)?\w+ ", re.MULTILINE)
_MINIO_LINE: Final = re.compile(r'^minio_api_requests_total\{[^}]*type="s3"[^}]*\} (\S+)$', re.MULTILINE)


class BucketServer(S3Server):
    """An S3 server for one run."""

    @abstractmethod
    def requests(self) -> int:
        """How many it has answered since it started."""

    @abstractmethod
    def drop_bucket(self, name: str) -> None:
        """Its files, at once: S3 itself would be asked for every object."""

    def make_bucket(self, name: str) -> None:
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()

    def registry_storage(self, bucket: str, endpoint: str) -> dict[str, Any]:
        """A stock registry's configuration for the root of *bucket*: the driver's own defaults (parts of 10 MiB)."""
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
    """Completes an upload as S3 does, without reading its parts again."""

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
        """Of its metrics, which are not cached."""
        return counted(urllib3.request("GET", f"{self.url}/minio/metrics/v3/api/requests", timeout=5).data.decode())

    def drop_bucket(self, name: str) -> None:
        """With what copies into it have deleted, which MinIO itself empties every five minutes."""
        own = self.data / ".minio.sys"
        for folder in (self.data / name, own / "buckets" / name, *(own / "tmp" / ".trash").iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


class Versity(VersityGateway, BucketServer):
    """Strict, and puts the parts of an upload together in a file when it is completed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._access_log = directory / "access.log"

    def command(self) -> list[str]:
        program, *rest, data = super().command()
        return [program, "--access-log", str(self._access_log), *rest, "--data-integrity-etag", data]

    def requests(self) -> int:
        """Of its access log."""
        return len(_VERSITY_LINE.findall(self._access_log.read_bytes()))

    def drop_bucket(self, name: str) -> None:
        for folder in (self.data, self.directory / "metadata"):
            shutil.rmtree(folder / name, ignore_errors=True)


def counted(metrics: str) -> int:
    """The requests that MinIO's metrics tell of."""
    return sum(int(float(count)) for count in _MINIO_LINE.findall(metrics))


BUCKET_SERVERS: Final[Mapping[str, type[BucketServer]]] = {"minio": Minio, "versitygw": Versity}
