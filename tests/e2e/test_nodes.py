"""docs/how-to/pull-from-nodes.md says what is true: its files are those of the API, and its commands work on nodes."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import pytest
import urllib3
import yaml

from mirror.oci.digest import Digest
from tests.e2e.node_clients import (
    APP,
    CONTAINERD,
    DOCKER,
    HUB,
    PODMAN,
    PULL_TOKEN,
    QUAY,
    REDIS,
    SKOPEO,
    Client,
    MakeNode,
    Mirrors,
    client_config,
    configure,
    every_client,
)
from tests.e2e.page import Section, documentation, sections
from tests.support.servers.node import NAME, Node

pytestmark = [pytest.mark.node_clients, pytest.mark.usefixtures("held")]

PATH: Final = "how-to/pull-from-nodes.md"
PAGE: Final = sections(documentation(PATH))
PLAIN_HTTP: Final = f"http://{NAME}:8080"


def commands(section: Section, start: str) -> list[str]:
    found = [command for command in section.commands if start in command]
    assert found, f"{section.title} has no command with '{start}'"
    return found


def run_all(node: Node, typed: Sequence[str]) -> None:
    for command in typed:
        node.run(command)


def digest_of(client: str, node: Node, name: str) -> str:
    """Return the digest under which a client has *name*."""
    if client == "ctr":
        return node.run(f"ctr images list name=={name}").splitlines()[-1].split()[2]
    pulled: list[str] = json.loads(node.run(f"{client} image inspect --format '{{{{json .RepoDigests}}}}' {name}"))
    return pulled[0].partition("@")[2]


@pytest.mark.parametrize(
    ("section", "client", "closed", "url", "query"),
    [
        ("containerd", "containerd", False, f"https://{NAME}", ""),
        ("podman and CRI-O", "podman", False, f"https://{NAME}", ""),
        ("podman and CRI-O", "cri-o", False, f"https://{NAME}", ""),
        ("Docker", "docker", False, f"https://{NAME}", ""),
        ("With a login/containerd and Kubernetes", "kubernetes", True, f"https://{NAME}", ""),
        ("With a login/podman and CRI-O", "cri-o", True, f"https://{NAME}", ""),
        ("With a private CA", "containerd", False, f"https://{NAME}", "ca_file=/etc/corp-ca.pem"),
    ],
)
def test_the_files_of_the_page_are_those_of_the_api(
    mirrors: Mirrors, section: str, client: str, url: str, query: str, *, closed: bool
) -> None:
    answer = client_config(mirrors(closed=closed, url=url), client, query)
    written = {file["path"]: file["content"] for file in answer["files"]}
    shown = PAGE[section].files
    assert shown
    assert shown.items() <= written.items()


def test_the_files_for_plain_http_are_those_of_the_api(mirrors: Mirrors) -> None:
    answers = [client_config(mirrors(url=PLAIN_HTTP), client) for client in ("containerd", "docker")]
    written = {file["path"]: file["content"] for answer in answers for file in answer["files"]}
    assert PAGE["Over plain HTTP"].files.items() <= written.items()


def test_the_page_gets_the_script_and_runs_it(mirrors: Mirrors, node: MakeNode) -> None:
    mirror = mirrors(closed=True)
    [curl, *runs] = PAGE["One script for each client"].commands
    words = shlex.split(curl.replace("$TOKEN", mirror.token))
    [url] = [word for word in words if word.startswith(f"https://{NAME}/")]
    name, _, value = words[words.index("-H") + 1].partition(": ")
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        answer = pool.request("GET", mirror.url + urlsplit(url).path, headers={name: value})
    machine = node(mirror, CONTAINERD)
    machine.write({f"/run/home/{words[-1]}": answer.data.decode(), "/run/home/pull-token": PULL_TOKEN})
    without, given = runs
    assert "Set it to the pull token" in machine.attempt(f"cd; unset MIRROR_PULL_TOKEN; {without}").stderr
    machine.run(f"cd; unset MIRROR_PULL_TOKEN; {given}")
    assert machine.run("ls /etc/containerd/certs.d").split() == ["docker.io", NAME, "quay.io"]


def test_the_table_of_clients_and_parameters_is_complete(mirrors: Mirrors) -> None:
    text = documentation(PATH).read_text()
    for client in re.findall(r"^\| .* \| `([a-z-]+)` \|", text, re.MULTILINE):
        assert client_config(mirrors(), client)["client"] == client
    queries = re.findall(r"^\| `\?(\S+)` \|", text, re.MULTILINE)
    assert len(queries) == 3
    for query in queries:
        client_config(mirrors(), "containerd", query)


def test_the_commands_of_the_page_pull_with_containerd(mirrors: Mirrors, node: MakeNode) -> None:
    machine = node(mirrors(), CONTAINERD)
    configure(machine, mirrors(), "containerd")
    CONTAINERD.start(machine)
    run_all(machine, PAGE["containerd"].commands)
    assert digest_of("ctr", machine, HUB) == str(REDIS.digest)
    assert digest_of("ctr", machine, QUAY) == str(APP.digest)


@every_client("containerd-1.6", "containerd-2")
def test_one_file_of_containerd_is_enough_for_every_registry(mirrors: Mirrors, node: MakeNode, client: Client) -> None:
    machine = node(mirrors(), client)
    machine.write(PAGE["containerd/One file for every registry"].files)
    client.start(machine)
    run_all(machine, PAGE["containerd"].commands)
    assert digest_of("ctr", machine, HUB) == str(REDIS.digest)
    assert digest_of("ctr", machine, QUAY) == str(APP.digest)


def test_paths_with_the_registry_work_too(mirrors: Mirrors, node: MakeNode) -> None:
    """Nodes that were configured for an earlier version keep their files."""
    machine = node(mirrors(), CONTAINERD)
    override = f'[host."https://{NAME}/v2/docker.io"]\n  capabilities = ["pull", "resolve"]\n  override_path = true\n'
    machine.write({"/etc/containerd/certs.d/docker.io/hosts.toml": override})
    CONTAINERD.start(machine)
    machine.run(CONTAINERD.command(HUB))
    assert digest_of("ctr", machine, HUB) == str(REDIS.digest)


def test_the_commands_of_the_page_pull_with_podman_and_skopeo(mirrors: Mirrors, node: MakeNode) -> None:
    machine = node(mirrors(), PODMAN, SKOPEO)
    configure(machine, mirrors(), "podman")
    section = PAGE["podman and CRI-O"]
    run_all(machine, commands(section, "podman pull"))
    assert digest_of("podman", machine, HUB) == str(REDIS.digest)
    assert digest_of("podman", machine, QUAY) == str(APP.digest)
    [inspect] = commands(section, "skopeo")
    assert Digest.of(machine.run(inspect).encode()) == REDIS.digest


def test_the_commands_of_the_page_pull_with_docker(mirrors: Mirrors, node: MakeNode) -> None:
    machine = node(mirrors(), DOCKER)
    DOCKER.start(machine)
    configure(machine, mirrors(), "docker")
    run_all(machine, PAGE["Docker"].commands)
    assert digest_of("docker", machine, "redis:7") == str(REDIS.digest)
    full_name = f"docker pull {NAME}/{QUAY}"
    assert f"`{full_name}`" in documentation(PATH).read_text()
    machine.run(full_name)
    assert digest_of("docker", machine, f"{NAME}/{QUAY}") == str(APP.digest)


@pytest.mark.parametrize(
    ("client", "section", "name"),
    [(DOCKER, "Docker and full names", f"{NAME}/{HUB}"), (PODMAN, "podman and CRI-O", HUB)],
    ids=["docker", "podman"],
)
def test_docker_and_podman_log_in_to_the_mirror(
    mirrors: Mirrors, node: MakeNode, client: Client, section: str, name: str
) -> None:
    mirror = mirrors(closed=True)
    machine = node(mirror, client)
    machine.write(PAGE["podman and CRI-O"].files)
    client.start(machine)
    login, pull = PAGE[f"With a login/{section}"].commands
    assert machine.attempt(pull).returncode != 0, "the mirror is closed"
    run_all(machine, (login, pull))
    assert digest_of(client.config, machine, name) == str(REDIS.digest)


def test_the_login_file_of_cri_o_is_one_that_podman_and_skopeo_take(mirrors: Mirrors, node: MakeNode) -> None:
    mirror = mirrors(closed=True)
    machine = node(mirror, PODMAN, SKOPEO)
    configure(machine, mirror, "cri-o")
    login = "--authfile /etc/crio/image-mirror-auth.json"
    assert machine.attempt("podman pull redis:7").returncode != 0, "the mirror is closed"
    machine.run(f"podman pull {login} redis:7")
    assert Digest.of(machine.run(f"skopeo inspect --raw {login} docker://{HUB}").encode()) == REDIS.digest


def test_dockerd_sends_its_mirror_the_login_of_docker_hub_and_no_other(mirrors: Mirrors, node: MakeNode) -> None:
    mirror = mirrors(closed=True)
    machine = node(mirror, DOCKER)
    machine.write(PAGE["Docker"].files)
    DOCKER.start(machine)

    def sent_with_a_login_for(host: str) -> set[str | None]:
        seen = len(machine.requests())
        auths = {"auths": {host: {"auth": base64.b64encode(b"user:secret").decode()}}}
        machine.write({"~/.docker/config.json": json.dumps(auths)})
        assert machine.attempt("docker pull redis:7").returncode != 0
        return {request.authorization for request in machine.requests()[seen:]}

    assert sent_with_a_login_for(NAME) == {None}
    assert f"Basic {base64.b64encode(b'user:secret').decode()}" in sent_with_a_login_for("https://index.docker.io/v1/")


def test_the_pull_secret_is_a_login_that_clients_take(mirrors: Mirrors, node: MakeNode) -> None:
    machine = node(mirrors(closed=True), DOCKER, PODMAN, SKOPEO)
    secret, pod = yaml.safe_load_all(PAGE["With a login/Kubernetes without access to nodes"].text("yaml"))
    assert pod["spec"]["imagePullSecrets"] == [{"name": secret["metadata"]["name"]}]
    image = pod["spec"]["containers"][0]["image"]
    value = base64.b64encode(f"mirror:{PULL_TOKEN}".encode()).decode()
    machine.write({"~/.docker/config.json": secret["stringData"][".dockerconfigjson"].replace("BASE64", value)})
    DOCKER.start(machine)
    machine.run(f"docker pull {image}")
    assert digest_of("docker", machine, image) == str(REDIS.digest)
    machine.run(f"podman pull --authfile /run/home/.docker/config.json {image}")
    assert digest_of("podman", machine, image) == str(REDIS.digest)
    raw = machine.run(f"skopeo inspect --raw --authfile /run/home/.docker/config.json docker://{image}")
    assert Digest.of(raw.encode()) == REDIS.digest
