"""Real container clients on isolated nodes, and the mirrors that they pull from."""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
import pytest
import urllib3

from tests.api.live_service import LiveService
from tests.support import images
from tests.support.servers import RcloneS3, ValkeyServer, program
from tests.support.servers.node import NAME, S3_NAMES, Node
from tests.support.servers.process import REPOSITORY

PREFIX: Final = "nodes"
PULL_TOKEN: Final = f"pull-{secrets.token_hex(16)}"
REDIS: Final = images.three_platforms("redis")
APP: Final = images.image(images.layer("app", compressed=True), docker=True)
HUB: Final = "docker.io/library/redis:7"
QUAY: Final = "quay.io/team/app:1"

MakeMirror = Callable[..., LiveService]
MakeNode = Callable[..., Node]


@dataclass(frozen=True, slots=True)
class Client:
    """A container client: its name in ``/v1/client-config``, its programs, and how it pulls.

    ``short`` is the name by which its users pull Docker Hub's redis. ``folder`` is where its programs are, if they are
    not on PATH.
    """

    config: str
    programs: tuple[str, ...]
    pull: str
    short: str = "redis"
    platform: str = "--platform linux/arm64"
    folder: str | None = None

    def command(self, name: str, *, arm64: bool = False) -> str:
        """Return the command that pulls *name*, for the test's machine or for arm64."""
        return self.pull.format(name=name, options=self.platform if arm64 else "")

    def start(self, node: Node) -> None:
        """Start its daemon, if it has one."""
        if "containerd" in self.programs:
            node.start(str(program("containerd", folder=self.folder)), ready="ctr version")
        if "dockerd" in self.programs:
            flags = ("--bridge=none", "--iptables=false", "--storage-driver=vfs")
            node.start(str(program("dockerd")), *flags, ready="docker version")

    @property
    def variables(self) -> dict[str, str]:
        """The variables with which a shell finds its programs."""
        if not self.folder:
            return {}
        return {"PATH": f"{REPOSITORY / '.tools' / self.folder}:{os.environ['PATH']}:/usr/sbin:/sbin"}


CONTAINERD: Final = Client(
    "containerd",
    ("containerd", "ctr"),
    "ctr images pull --hosts-dir /etc/containerd/certs.d {options} {name}",
    short="docker.io/library/redis",
)
CONTAINERD_2: Final = replace(CONTAINERD, folder="containerd-2")
DOCKER: Final = Client("docker", ("dockerd", "docker"), "docker pull {options} {name}")
PODMAN: Final = Client("podman", ("podman",), "podman pull {options} {name}")
SKOPEO: Final = Client(
    "podman",
    ("skopeo",),
    "rm -rf /run/copy && skopeo {options} copy docker://{name} dir:/run/copy",
    platform="--override-arch arm64",
)
CLIENTS: Final = {
    "containerd-1.6": CONTAINERD,
    "containerd-2": CONTAINERD_2,
    "docker": DOCKER,
    "podman": PODMAN,
    "skopeo": SKOPEO,
}


def every_client(*names: str) -> pytest.MarkDecorator:
    """Run a test once for each of these clients, by default for all."""
    chosen = names or tuple(CLIENTS)
    return pytest.mark.parametrize("client", [CLIENTS[name] for name in chosen], ids=chosen)


class Mirrors:
    """Services over the same stores, each with other settings. Each is started once."""

    def __init__(self, factory: pytest.TempPathFactory, valkey: ValkeyServer, s3: RcloneS3) -> None:
        self._factory = factory
        self._stores = (valkey, s3)
        self._started: dict[tuple[bool, bool, str], LiveService] = {}
        self._running = ExitStack()

    def __call__(self, *, closed: bool = False, redirecting: bool = False, url: str = f"https://{NAME}") -> LiveService:
        wanted = (closed, redirecting, url)
        if wanted not in self._started:
            service = LiveService(
                self._factory.mktemp("service"),
                *self._stores,
                PREFIX,
                MIRROR_PUBLIC_URL=url,
                MIRROR_ANONYMOUS_PULL=str(not closed).lower(),
                MIRROR_PULL_TOKEN=PULL_TOKEN,
                MIRROR_SERVE_REDIRECT=str(redirecting).lower(),
                MIRROR_S3_PUBLIC_ENDPOINT=f"https://{S3_NAMES[0]}",
            )
            self._started[wanted] = self._running.enter_context(service)
        return self._started[wanted]

    def close(self) -> None:
        """End all services. They end at the same time, because each waits for its connections."""
        for service in self._started.values():
            if service.pid:
                os.kill(service.pid, signal.SIGTERM)
        self._running.close()


def request_config(mirror: LiveService, client: str, query: str = "") -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        url = f"{mirror.url}/v1/client-config/{client}?{query}"
        return pool.request("GET", url, headers=mirror.headers)


def client_config(mirror: LiveService, client: str, query: str = "") -> dict[str, Any]:
    """Return what the API says to the operator who sets up a node."""
    answer = request_config(mirror, client, query)
    assert answer.status == 200, answer.data
    document: dict[str, Any] = answer.json()
    return document


def configure(node: Node, mirror: LiveService, client: str, query: str = "") -> dict[str, Any]:
    """Run the script for *client* on a node, exactly as the API gives it. Return the whole answer."""
    document = client_config(mirror, client, query)
    run_script(node, document["script"])
    return document


def run_script(node: Node, script: str) -> str:
    node.write({"/run/client-config.sh": script})
    return node.run(f"MIRROR_PULL_TOKEN='{PULL_TOKEN}' sh /run/client-config.sh")


def requested(node: Node, kind: str) -> set[tuple[str, str]]:
    """Return the repository and the last part of the path of each request for a manifest or a blob."""
    paths = [re.match(rf"/v2/(.+)/{kind}/([^?]+)", request.path) for request in node.requests()]
    return {(path[1], path[2]) for path in paths if path}


def pull_as_a_kubelet(node: Node, image: str) -> None:
    """Pull as a kubelet does: with ``PullImage`` of Kubernetes' container runtime interface (CRI).

    A message is written by hand, because the interface has no Python package: ``{1: {1: image}}`` in protobuf.
    """
    spec = b"\x0a" + bytes([len(image)]) + image.encode()
    with grpc.insecure_channel(f"unix:{node.path('/run/containerd/containerd.sock')}") as channel:
        pull = channel.unary_unary("/runtime.v1.ImageService/PullImage")
        pull(b"\x0a" + bytes([len(spec)]) + spec, timeout=60)
