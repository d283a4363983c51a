"""The registries that are measured. All read their images from the same S3 server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import urllib3

from bench.checkout_service import CheckoutService, described, python_of
from bench.programs import require, version
from bench.servers import BucketServer, Registry
from tests.support.servers import REGION, Server, ValkeyServer

Mode = Literal["redirecting", "streaming"]
OURS: Final = "Image Mirror"
_CONTENT: Final = Path(__file__).with_name("content.py")
_FILLED_WITHIN: Final = 300.0
CACHED: Final = "distribution"
UNCACHED: Final = "distribution, no cache"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that every server has. *length* is its manifest's, *blobs* are sizes by digest.

    *large* is the layer of 100 KB.
    """

    repository: str
    tag: str
    digest: str
    length: int
    blobs: Mapping[str, int]
    large: str

    def url(self, base: str, kind: Literal["manifests", "blobs"], name: str) -> str:
        return f"{base}/v2/{self.repository}/{kind}/{name}"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready. Its CPU time is that of the process trees below *roots*."""

    url: str
    roots: Sequence[int]


class Measured(Protocol):
    """A registry to measure."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def running(self, mode: Mode) -> AbstractContextManager[Running]:
        """Start the server with empty caches, and stop it after the block."""
        ...


@dataclass(frozen=True, slots=True)
class ImageMirror:
    """The service of *checkout* as users start it, with its own Valkey and prefix. Valkey's CPU time counts as its."""

    name: str
    checkout: Path
    directory: Path
    s3: BucketServer
    valkey: ValkeyServer

    @property
    def version(self) -> str:
        return f"{self.name}: {described(self.checkout)}"

    @property
    def prefix(self) -> str:
        return self.directory.name

    def fill(self) -> list[StoredImage]:
        """Publish the images with the checkout's own code. Raises CalledProcessError."""
        done = subprocess.run(
            [python_of(self.checkout), "-P", _CONTENT],
            env={name: value for name, value in {**os.environ, **self._settings()}.items() if value},
            stdout=subprocess.PIPE,
            timeout=_FILLED_WITHIN,
            check=True,
        )
        return [StoredImage(**image) for image in json.loads(done.stdout)]

    @contextmanager
    def running(self, mode: Mode) -> Iterator[Running]:
        with self._service(mode) as service:
            yield Running(service.url, [_pid(service), _pid(self.valkey)])

    def _settings(self) -> dict[str, str]:
        settings = dict(self._service("streaming").environment())
        del settings["MIRROR_PORT"]  # it has none before it starts
        return settings

    def _service(self, mode: Mode) -> CheckoutService:
        return CheckoutService(
            self.checkout,
            self.directory,
            self.valkey,
            self.s3,
            self.prefix,
            MIRROR_SERVE_REDIRECT="true" if mode == "redirecting" else "false",
            MIRROR_S3_PUBLIC_ENDPOINT=_other_host(self.s3),
        )


@dataclass(frozen=True, slots=True)
class Distribution:
    """CNCF distribution on the same objects. *cached* is its in-memory cache of blob descriptors."""

    cached: bool
    directory: Path
    s3: BucketServer
    prefix: str

    @property
    def name(self) -> str:
        return CACHED if self.cached else UNCACHED

    @property
    def version(self) -> str:
        return version(require("registry", "docker-registry"))

    @contextmanager
    def running(self, mode: Mode) -> Iterator[Running]:
        storage = self.s3.registry_storage(self.s3.bucket, _other_host(self.s3))
        storage["s3"]["rootdirectory"] = f"/{self.prefix}"
        storage["redirect"] = {"disable": mode == "streaming"}
        with Registry(self.directory, storage, descriptors_cached=self.cached) as registry:
            yield Running(registry.url, [_pid(registry)])


@dataclass(frozen=True, slots=True)
class Zot:
    """zot, on the same S3 server. It reads only its own layout, so the images are pushed into it."""

    directory: Path
    s3: BucketServer
    name: str = "zot"

    @property
    def version(self) -> str:
        """Return its commit, which is its release and the commits since."""
        printed = subprocess.run([require("zot"), "--version"], capture_output=True, text=True, timeout=30, check=True)
        return f"zot {json.loads(printed.stdout)['commit'] or 'of unknown commit'}"

    def fill(self, images: Sequence[StoredImage], source: Measured) -> None:
        """Copy all images from *source*. Raises CalledProcessError."""
        with source.running("streaming") as origin, self.running("streaming") as zot:
            for repository in sorted({image.repository for image in images}):
                names = [f"{server.url.removeprefix('http://')}/{repository}" for server in (origin, zot)]
                subprocess.run(
                    [require("crane"), "copy", "--insecure", "--all-tags", *names],
                    stderr=subprocess.DEVNULL,
                    timeout=_FILLED_WITHIN,
                    check=True,
                )

    @contextmanager
    def running(self, mode: Mode) -> Iterator[Running]:
        with _ZotServer(self.directory, self.s3, mode) as server:
            yield Running(server.url, [_pid(server)])


class _ZotServer(Server):
    name = "zot"

    def __init__(self, directory: Path, s3: BucketServer, mode: Mode) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory)
        self._s3 = s3
        self._mode = mode

    def command(self) -> list[str]:
        """Return zot with its defaults, except that deduplication is off. That needs a database for S3."""
        driver: dict[str, Any] = {
            "name": "s3",
            "rootdirectory": "/zot",
            "region": REGION,
            "regionendpoint": _other_host(self._s3),
            "forcepathstyle": True,
            "bucket": self._s3.bucket,
            "accesskey": self._s3.access_key,
            "secretkey": self._s3.secret_key,
            "secure": False,
        }
        storage = {
            "rootDirectory": str(self.directory / "state"),
            "dedupe": False,
            "redirectBlobURL": self._mode == "redirecting",
            "storageDriver": driver,
        }
        configuration = {
            "distSpecVersion": "1.1.1",
            "storage": storage,
            "http": {"address": "127.0.0.1", "port": str(self.port)},
            "log": {"level": "info"},
        }
        path = self.directory / "zot.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(configuration))
        return [str(require("zot")), "serve", str(path)]

    def environment(self) -> Mapping[str, str]:
        return {"AWS_CA_BUNDLE": ""}

    def answers(self) -> bool:
        with urllib3.PoolManager(retries=False, timeout=5) as http:
            try:
                return http.request("GET", f"{self.url}/v2/").status == 200
            except urllib3.exceptions.HTTPError:
                return False


def _other_host(s3: BucketServer) -> str:
    """Return the S3 server's URL with another host name than the registries have.

    The service streams blobs if S3 has its own host name.
    """
    return s3.url.replace("127.0.0.1", "localhost")


def _pid(server: Server) -> int:
    if server.pid is None:
        raise RuntimeError(f"{server.name} has ended")
    return server.pid
