"""Real clients pull through the files and scripts of ``/v1/client-config``, unedited.

Each runs on a node that reaches the mirror, its S3, and a Docker Hub without images. So every pulled image came from
the mirror.
"""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.node_clients import (
    APP,
    CONTAINERD,
    CONTAINERD_2,
    DOCKER,
    HUB,
    QUAY,
    REDIS,
    Client,
    MakeNode,
    Mirrors,
    client_config,
    configure,
    every_client,
    pull_as_a_kubelet,
    request_config,
    requested,
    run_script,
)
from tests.support.fakes.certificates import Issued
from tests.support.images import TestImage
from tests.support.servers.node import NAME, Node

pytestmark = [pytest.mark.node_clients, pytest.mark.usefixtures("held")]

ARM64: Final[TestImage] = list(REDIS.children.values())[1]
CONFIG_TOML: Final = "/etc/containerd/config.toml"
CRI_OF_CONTAINERD_2: Final = """version = 3

[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'

    [plugins.'io.containerd.cri.v1.images'.registry]
      config_path = ''

    [plugins.'io.containerd.cri.v1.images'.image_decryption]
      key_model = 'node'
"""
DAEMON_JSON: Final = "/etc/docker/daemon.json"


def pull_every_way(node: Node, client: Client, short: str) -> None:
    """Pull redis by tag, by digest and by platform."""
    node.run(client.command(f"{short}:7"))
    node.run(client.command(f"{short}@{REDIS.digest}"))
    node.run(client.command(f"{short}:7", arm64=True))
    names = {name for _, name in requested(node, "manifests")}
    assert {str(REDIS.digest), str(ARM64.digest)} <= names
    assert {str(digest) for digest in ARM64.blobs} <= {name for _, name in requested(node, "blobs")}


def require_no_leak(node: Node, admin_token: str, *, redirecting: bool) -> None:
    """Check that no host saw the admin token, and that S3 saw no token at all."""
    to_s3 = node.s3_requests()
    sent = [request.authorization for request in (*node.requests(), *to_s3, *node.docker_hub_requests())]
    basic = [base64.b64decode(value.removeprefix("Basic ")).decode() for value in sent if value]
    assert not any(admin_token in value for value in (*sent, *basic) if value)
    assert bool(to_s3) == redirecting
    assert {request.authorization for request in to_s3} <= {None}


@pytest.mark.parametrize("redirecting", [True, False], ids=["redirecting", "streaming"])
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@every_client()
def test_a_client_pulls_by_tag_digest_and_platform(
    mirrors: Mirrors, node: MakeNode, client: Client, *, closed: bool, redirecting: bool
) -> None:
    mirror = mirrors(closed=closed, redirecting=redirecting)
    machine = node(mirror, client)
    client.start(machine)
    configure(machine, mirror, client.config)
    if client is DOCKER and closed:
        before = machine.requests()
        assert machine.attempt(client.command("redis:7")).returncode != 0, "dockerd cannot log in to a mirror"
        assert machine.requests() == before, "so it is not told to use one"
    short = f"{NAME}/docker.io/library/redis" if client is DOCKER and closed else client.short
    pull_every_way(machine, client, short)
    machine.run(client.command(f"{NAME}/{QUAY}" if client is DOCKER else QUAY))
    assert {str(digest) for digest in APP.blobs} <= {name for _, name in requested(machine, "blobs")}
    require_no_leak(machine, mirror.token, redirecting=redirecting)


def pull_what_the_mirror_does_not_have(machine: Node, client: Client) -> bool:
    """Pull from a mirror without the image, and from one that does not answer. Return whether Docker Hub was asked."""
    asked = []
    for number in (1, 2):
        hub = len(machine.docker_hub_requests())
        assert machine.attempt(client.command(f"{client.short}:8")).returncode != 0
        assert len(machine.requests()) >= number, "the mirror is asked first"
        asked.append(len(machine.docker_hub_requests()) > hub)
        machine.take_mirror_away()
    assert asked[0] == asked[1]
    return asked[0]


@every_client()
def test_clients_fall_back_to_the_original_registry(mirrors: Mirrors, node: MakeNode, client: Client) -> None:
    machine = node(mirrors(), client)
    configure(machine, mirrors(), client.config)
    client.start(machine)
    assert pull_what_the_mirror_does_not_have(machine, client)


@every_client("containerd-1.6", "containerd-2", "podman", "skopeo")
def test_without_fallback_the_original_registry_is_never_asked(
    mirrors: Mirrors, node: MakeNode, client: Client
) -> None:
    machine = node(mirrors(), client)
    configure(machine, mirrors(), client.config, "fallback=false")
    client.start(machine)
    machine.run(client.command(f"{client.short}:7"))
    assert not pull_what_the_mirror_does_not_have(machine, client)


def test_the_original_registry_of_dockerd_cannot_be_excluded(mirrors: Mirrors) -> None:
    answer = request_config(mirrors(), "docker", "fallback=false")
    assert (answer.status, answer.json()["code"]) == (422, "FALLBACK_UNAVOIDABLE")


@every_client("containerd-1.6", "containerd-2", "docker", "podman")
def test_a_private_ca_is_trusted_from_a_file_of_the_node(
    mirrors: Mirrors, node: MakeNode, client: Client, certificate: Issued
) -> None:
    mirror = mirrors(redirecting=True)
    machine = node(mirror, client, trusts=False)
    configure(machine, mirror, client.config)
    client.start(machine)
    pull = client.command(f"{client.short}:7")
    assert machine.attempt(pull).returncode != 0, "the CA is not trusted"
    assert machine.requests() == []
    machine.write({"/etc/corp-ca.pem": certificate.authority.read_text()})
    configure(machine, mirror, client.config, "ca_file=/etc/corp-ca.pem")
    machine.run(pull)
    machine.run(client.command(f"{NAME}/{HUB}"))
    assert machine.s3_requests(), "the same CA counts for S3"


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@every_client("containerd-1.6", "containerd-2", "docker", "podman")
def test_plain_http_works_where_the_mirror_has_no_tls(
    mirrors: Mirrors, node: MakeNode, client: Client, *, closed: bool
) -> None:
    mirror = mirrors(closed=closed, url=f"http://{NAME}:8080")
    machine = node(mirror, client, trusts=False)
    client.start(machine)
    configure(machine, mirror, client.config)
    if not (client is DOCKER and closed):
        machine.run(client.command(f"{client.short}:7"))
    machine.run(client.command(f"{NAME}:8080/{QUAY}"))
    assert {str(digest) for digest in APP.blobs} <= {name for _, name in requested(machine, "blobs")}


@pytest.mark.parametrize("config", ["none", "debian", "default"])
def test_a_kubelet_pulls_redis_by_its_short_name(mirrors: Mirrors, node: MakeNode, config: str) -> None:
    """The script names the folder in config.toml, whatever that file has, and changes nothing in a second run."""
    mirror = mirrors(closed=True)
    machine = node(mirror, CONTAINERD)
    if config == "debian":
        machine.write({CONFIG_TOML: Path(CONFIG_TOML).read_text()})
    elif config == "default":
        machine.run(f"containerd config default > {CONFIG_TOML}")
    script = configure(machine, mirror, "kubernetes")["script"]
    written = machine.run(f"cat {CONFIG_TOML}")
    run_script(machine, script)
    assert machine.run(f"cat {CONFIG_TOML}") == written
    CONTAINERD.start(machine)
    pull_as_a_kubelet(machine, "redis:7")
    first_platform = next(iter(REDIS.children.values()))
    assert {str(digest) for digest in first_platform.blobs} <= {name for _, name in requested(machine, "blobs")}


@pytest.mark.parametrize("config", ["", "version = 3\n", CRI_OF_CONTAINERD_2], ids=["none", "no table", "table"])
def test_the_kubernetes_script_knows_the_config_of_containerd_2(mirrors: Mirrors, node: MakeNode, config: str) -> None:
    machine = node(mirrors(), CONTAINERD_2)
    if config:
        machine.write({CONFIG_TOML: config})
    configure(machine, mirrors(), "kubernetes")
    dumped = tomllib.loads(machine.run("containerd config dump 2>/dev/null"))
    tables = [table for name, table in dumped["plugins"].items() if "registry" in table and ".cri" in name]
    assert [table["registry"]["config_path"] for table in tables] == ["/etc/containerd/certs.d"]
    CONTAINERD_2.start(machine)


def test_the_kubernetes_script_refuses_a_config_that_containerd_would_refuse(mirrors: Mirrors, node: MakeNode) -> None:
    machine = node(mirrors(), CONTAINERD)
    table = '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n  endpoint = ["https://old.corp"]\n'
    machine.write({CONFIG_TOML: f"version = 2\n{table}"})
    machine.write({"/run/client-config.sh": client_config(mirrors(), "kubernetes")["script"]})
    refused = machine.attempt("sh /run/client-config.sh")
    assert refused.returncode != 0
    assert 'config_path = "/etc/containerd/certs.d"' in refused.stderr
    assert machine.run(f"cat {CONFIG_TOML}") == f"version = 2\n{table}"
    assert machine.attempt("ls /etc/containerd/certs.d").returncode != 0, "nothing was written"


@every_client("containerd-1.6", "docker", "podman")
def test_a_script_may_run_again_and_changes_nothing_then(mirrors: Mirrors, node: MakeNode, client: Client) -> None:
    mirror = mirrors(closed=client is not DOCKER)
    machine = node(mirror, client)
    answer = configure(machine, mirror, client.config)
    paths = " ".join(file["path"] for file in answer["files"])
    first = machine.run(f"stat --format '%n %#a' {paths}; cat {paths}")
    assert first.startswith("".join(f"{file['path']} {file['mode']}\n" for file in answer["files"]))
    run_script(machine, answer["script"])
    assert machine.run(f"stat --format '%n %#a' {paths}; cat {paths}") == first


def test_what_else_daemon_json_has_is_kept(mirrors: Mirrors, node: MakeNode) -> None:
    machine = node(mirrors(), DOCKER)
    own = {"log-driver": "local", "registry-mirrors": ["https://other.corp"]}
    machine.write({DAEMON_JSON: json.dumps(own)})
    machine.run(f"chmod 640 {DAEMON_JSON}")
    script = configure(machine, mirrors(), "docker")["script"]
    run_script(machine, script)
    merged = {"log-driver": "local", "registry-mirrors": [f"https://{NAME}", "https://other.corp"]}
    assert json.loads(machine.run(f"cat {DAEMON_JSON}")) == merged
    assert machine.run(f"stat --format %a {DAEMON_JSON}") == "640\n"
