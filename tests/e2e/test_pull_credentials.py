"""What the mirror and S3 see of credentials, while real clients pull from a closed mirror.

Every request of the node to the mirror and to S3 is recorded, and so is every request of the mirror to S3.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pytest

from mirror.storage.s3 import S3Clients
from mirror.wiring import build
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.conftest import SettingsForServer, bucket_for
from tests.support import images
from tests.support.fakes.certificates import Authority
from tests.support.harness import mark_built
from tests.support.servers import RcloneS3, ValkeyServer, program
from tests.support.servers.node import NAME, S3_NAMES, S3_PORT, Node, ProxiedRequest, RecordingProxy
from tests.support.servers.process import in_ci

pytestmark = pytest.mark.node_clients

PREFIX: Final = "pull-credentials"
HUB: Final = "docker.io/library/redis:7"
OWN_NAME: Final = f"{NAME}/{HUB}"
REDIS: Final = images.image(images.layer("redis", compressed=True), docker=True)
PULL_TOKEN: Final = secrets.token_hex(16)
POLICY: Final = {"default": [{"type": "insecureAcceptAnything"}]}
STORAGE: Final = '[storage]\ndriver = "vfs"\nrunroot = "/run/storage"\ngraphroot = "/var/lib/storage"\n'
HOSTS: Final = f"""
server = "https://registry-1.docker.io"

[host."https://{NAME}/v2/docker.io"]
  capabilities = ["pull", "resolve"]
  override_path = true

  [host."https://{NAME}/v2/docker.io".header]
    authorization = "Bearer {PULL_TOKEN}"
"""


@dataclass(frozen=True, slots=True)
class Rig:
    """A closed mirror, a node that pulls from it, and what was recorded."""

    mirror: LiveService
    node: Node
    to_s3: RecordingProxy

    def requests_to_mirror(self) -> Sequence[ProxiedRequest]:
        return self.node.requests()

    def requests_to_s3(self) -> Sequence[ProxiedRequest]:
        return [*self.node.s3_requests(), *self.to_s3.requests]


MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(
    tmp_path: Path,
    valkey: ValkeyServer,
    redis_url: str,
    rclone_s3: RcloneS3,
    settings_for_server: SettingsForServer,
    s3_clients: dict[str, S3Clients],
) -> Iterator[MakeRig]:
    """Makes a rig for some programs, in which nodes reach S3 under *s3_name*."""
    with ExitStack() as running:

        def make(s3_name: str, *programs: str) -> Rig:
            for name in ("ip", *programs):
                program(name)
            if os.geteuid() != 0:
                (pytest.fail if in_ci() else pytest.skip)("only root can make a node of its own")
            certificate = Authority(tmp_path).issue(NAME)
            to_s3 = RecordingProxy(socket.create_server(("127.0.0.1", 0)), rclone_s3.url)
            running.callback(to_s3.close)
            settings = {
                "MIRROR_PUBLIC_URL": f"https://{NAME}",
                "MIRROR_ANONYMOUS_PULL": "false",
                "MIRROR_PULL_TOKEN": f"{secrets.token_hex(16)},{PULL_TOKEN}",
                "MIRROR_SERVE_REDIRECT": "true",
                "MIRROR_S3_ENDPOINT": to_s3.url,
                "MIRROR_S3_PUBLIC_ENDPOINT": f"http://{s3_name}:{S3_PORT}",
            }
            mirror = running.enter_context(LiveService(tmp_path, valkey, rclone_s3, PREFIX, **settings))
            variables = {"TOKEN": PULL_TOKEN, "SSL_CERT_FILE": str(certificate.authority)}
            tls = certificate.context()
            node = running.enter_context(Node(tmp_path, mirror.url, tls, variables, s3_url=rclone_s3.url))
            node.write({"/etc/containers/policy.json": json.dumps(POLICY), "/etc/containers/storage.conf": STORAGE})
            return Rig(mirror, node, to_s3)

        core_settings = settings_for_server(rclone_s3, PREFIX, redis_url=redis_url, admin_token="x" * 32)
        core = build(core_settings, bucket=bucket_for(core_settings, s3_clients))
        running.callback(core.close)
        mark_built(core.redis)
        SeededCatalog(core).hold(REDIS, HUB, source=HUB)
        yield make


def pull_with_docker(node: Node) -> None:
    node.start(
        str(program("dockerd")), "--bridge=none", "--iptables=false", "--storage-driver=vfs", ready="docker version"
    )
    node.run(f'echo "$TOKEN" | docker login {NAME} --username node --password-stdin')
    node.run(f"docker pull {OWN_NAME}")


def pull_with_containerd(node: Node) -> None:
    node.start(str(program("containerd")), ready="ctr version")
    node.write({"/etc/containerd/certs.d/docker.io/hosts.toml": HOSTS})
    node.run(f"ctr images pull --hosts-dir /etc/containerd/certs.d {HUB}")
    node.run(f"ctr images pull --user node:$TOKEN {OWN_NAME}")


def pull_with_podman(node: Node) -> None:
    node.run(f'echo "$TOKEN" | podman login {NAME} --username node --password-stdin')
    node.run(f"podman pull {OWN_NAME}")


def pull_with_skopeo(node: Node) -> None:
    node.run(f"skopeo copy --src-creds node:$TOKEN docker://{OWN_NAME} dir:/run/copy")


CLIENTS: Final = {
    "docker": (pull_with_docker, ("dockerd", "docker")),
    "containerd": (pull_with_containerd, ("containerd", "ctr")),
    "podman": (pull_with_podman, ("podman",)),
    "skopeo": (pull_with_skopeo, ("skopeo",)),
}


def readable(request: ProxiedRequest) -> str:
    """Return all text of a request, with what Basic encodes."""
    decoded = []
    for _, value in request.headers:
        scheme, _, encoded = value.partition(" ")
        if scheme.lower() == "basic":
            decoded.append(base64.b64decode(encoded).decode())
    return "\n".join([unquote(request.path), *(f"{name}: {value}" for name, value in request.headers), *decoded])


def shown_tokens(requests: Sequence[ProxiedRequest], token: str) -> list[str]:
    return [f"{request.method} {request.path}" for request in requests if token in readable(request)]


@pytest.mark.parametrize("s3_name", S3_NAMES)
@pytest.mark.parametrize("client", CLIENTS)
def test_no_pull_shows_a_token_to_s3_or_the_admin_token_to_anyone(make_rig: MakeRig, client: str, s3_name: str) -> None:
    """The second name of S3 is a subdomain of the mirror's, so that a client in Go would send S3 the token."""
    pull, programs = CLIENTS[client]
    rig = make_rig(s3_name, *programs)
    pull(rig.node)

    assert shown_tokens(rig.requests_to_mirror(), PULL_TOKEN), "the client logged in with the pull token"
    assert shown_tokens(rig.requests_to_mirror(), rig.mirror.token) == []
    assert rig.to_s3.requests, "the mirror read S3 through the recorder"
    assert shown_tokens(rig.requests_to_s3(), rig.mirror.token) == []
    assert shown_tokens(rig.requests_to_s3(), PULL_TOKEN) == []

    is_redirected = s3_name == "s3.corp"
    assert bool(rig.node.s3_requests()) is is_redirected
    assert [request.authorization for request in rig.node.s3_requests() if request.authorization] == []
    log = rig.mirror.log.read_text()
    assert [token for token in (rig.mirror.token, PULL_TOKEN) if token in log] == []


@pytest.mark.skopeo
def test_a_node_that_pushes_with_its_pull_token_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig("s3.corp", "skopeo")
    rig.node.run(f"skopeo copy --src-creds node:$TOKEN docker://{OWN_NAME} dir:/run/copy")
    pushed = rig.node.attempt(f"skopeo copy --dest-creds node:$TOKEN dir:/run/copy docker://{NAME}/team/pushed:1")
    assert pushed.returncode != 0
    assert "POST /v1/jobs" in pushed.stderr
    assert not [request for request in rig.to_s3.requests if "team/pushed" in request.path and request.method == "PUT"]
