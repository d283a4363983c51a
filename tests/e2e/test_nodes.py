"""Container clients pull from a real service.

They are configured as docs/how-to/pull-from-nodes.md says.

Each runs on a node that reaches only the mirror, so every pulled image came from there.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
import urllib3
import yaml

from mirror.oci.digest import Digest
from mirror.storage.s3 import S3Clients
from mirror.wiring import build
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.conftest import SettingsForServer, bucket_for
from tests.e2e.page import Section, documentation, sections
from tests.support import images
from tests.support.fakes.certificates import Authority, Issued
from tests.support.harness import mark_built
from tests.support.servers import RcloneS3, ValkeyServer, program
from tests.support.servers.node import NAME, Node
from tests.support.servers.process import in_ci

pytestmark = pytest.mark.node_clients

PAGE: Final = sections(documentation("how-to/pull-from-nodes.md"))
PREFIX: Final = "nodes"
REDIS: Final = images.three_platforms("redis")
APP: Final = images.image(images.layer("app", compressed=True), docker=True)
HUB: Final = "docker.io/library/redis:7"
POLICY: Final = {"default": [{"type": "insecureAcceptAnything"}]}
STORAGE: Final = '[storage]\ndriver = "vfs"\nrunroot = "/run/storage"\ngraphroot = "/var/lib/storage"\n'

MakeNode = Callable[..., Node]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return Authority(tmp_path_factory.mktemp("authority")).issue(NAME)


def service(factory: pytest.TempPathFactory, valkey: ValkeyServer, s3: RcloneS3, *, anonymous_pull: str) -> LiveService:
    settings = {"MIRROR_PUBLIC_URL": f"https://{NAME}", "MIRROR_ANONYMOUS_PULL": anonymous_pull}
    return LiveService(factory.mktemp("service"), valkey, s3, PREFIX, **settings)


@pytest.fixture(scope="module")
def open_mirror(
    tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer, rclone_s3: RcloneS3
) -> Iterator[LiveService]:
    with service(tmp_path_factory, valkey, rclone_s3, anonymous_pull="true") as running:
        yield running


@pytest.fixture(scope="module")
def closed_mirror(
    tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer, rclone_s3: RcloneS3
) -> Iterator[LiveService]:
    with service(tmp_path_factory, valkey, rclone_s3, anonymous_pull="false") as running:
        yield running


@pytest.fixture(autouse=True)
def held(
    rclone_s3: RcloneS3,
    redis_url: str,
    settings_for_server: SettingsForServer,
    s3_clients: dict[str, S3Clients],
) -> Iterator[SeededCatalog]:
    """The images of the page in the mirror, under their default names."""
    settings = settings_for_server(rclone_s3, PREFIX, redis_url=redis_url, admin_token="x" * 32)
    core = build(settings, bucket=bucket_for(settings, s3_clients))
    mark_built(core.redis)
    holding = SeededCatalog(core)
    holding.hold(REDIS, HUB, source=HUB)
    holding.hold(APP, "quay.io/team/app:1", source="quay.io/team/app:1")
    yield holding
    core.close()


@pytest.fixture
def node(tmp_path: Path, certificate: Issued) -> Iterator[MakeNode]:
    """Makes a node for a service and the named programs.

    *trusts* says whether its system trusts the mirror's CA.
    """
    with ExitStack() as running:

        def make(mirror: LiveService, *programs: str, trusts: bool = True) -> Node:
            for name in ("ip", *programs):
                program(name)
            if os.geteuid() != 0:
                (pytest.fail if in_ci() else pytest.skip)("only root can make a node of its own")
            variables = {"TOKEN": mirror.token, **({"SSL_CERT_FILE": str(certificate.authority)} if trusts else {})}
            made = running.enter_context(Node(tmp_path, mirror.url, certificate.context(), variables))
            # The policy of Debian's package, and a storage driver that works on every file system.
            made.write({"/etc/containers/policy.json": json.dumps(POLICY), "/etc/containers/storage.conf": STORAGE})
            return made

        yield make


def start_containerd(node: Node) -> None:
    node.start(str(program("containerd")), ready="ctr version")


def start_dockerd(node: Node) -> None:
    flags = ("--bridge=none", "--iptables=false", "--storage-driver=vfs")
    node.start(str(program("dockerd")), *flags, ready="docker version")


def pulled_by_ctr(node: Node, name: str) -> str:
    """Return the digest that containerd has for *name*: the third word of the line."""
    return node.run(f"ctr images list name=={name}").splitlines()[-1].split()[2]


def pulled_by(client: str, node: Node, name: str) -> str:
    """Return the digest under which docker or podman pulled *name*."""
    pulled: list[str] = json.loads(node.run(f"{client} image inspect --format '{{{{json .RepoDigests}}}}' {name}"))
    return pulled[0].partition("@")[2]


def commands(section: Section, start: str) -> list[str]:
    found = [command for command in section.commands if start in command]
    assert found, f"{section.title} has no command with '{start}'"
    return found


def run_all(node: Node, typed: Sequence[str]) -> None:
    for command in typed:
        node.run(command)


def requested_repositories(node: Node) -> set[str]:
    paths = [re.match(r"/v2/(.+)/(?:manifests|blobs)/", request.path) for request in node.requests()]
    return {path[1] for path in paths if path}


def test_containerd_finds_images_of_any_registry(open_mirror: LiveService, node: MakeNode) -> None:
    machine = node(open_mirror, "containerd", "ctr")
    machine.write(PAGE["containerd"].files)
    start_containerd(machine)
    run_all(machine, PAGE["containerd"].commands)
    assert pulled_by_ctr(machine, HUB) == str(REDIS.digest)
    assert pulled_by_ctr(machine, "quay.io/team/app:1") == str(APP.digest)
    assert requested_repositories(machine) == {"docker.io/library/redis", "quay.io/team/app"}


def test_podman_and_skopeo_find_images_of_any_registry(open_mirror: LiveService, node: MakeNode) -> None:
    machine = node(open_mirror, "podman", "skopeo")
    section = PAGE["podman and CRI-O"]
    machine.write(section.files)
    run_all(machine, commands(section, "podman pull"))
    assert pulled_by("podman", machine, HUB) == str(REDIS.digest)
    assert pulled_by("podman", machine, "quay.io/team/app:1") == str(APP.digest)
    [inspect] = commands(section, "skopeo")
    assert Digest.of(machine.run(inspect).encode()) == REDIS.digest
    assert requested_repositories(machine) == {"docker.io/library/redis", "quay.io/team/app"}


def send_curl_request(mirror: LiveService, section: Section) -> None:
    """Send the request of the page's curl command, without curl."""
    [command] = commands(section, "curl")
    words = shlex.split(command.replace("$TOKEN", mirror.token))
    url, body, header = words[words.index("-d") - 1], words[words.index("-d") + 1], words[words.index("-H") + 1]
    name, _, value = header.partition(": ")
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        answer = pool.request(
            words[words.index("-X") + 1],
            url.replace(f"https://{NAME}", mirror.url),
            body=body,
            headers={name: value, "Content-Type": "application/json"},
        )
    assert answer.status == 201, answer.data


def test_dockerd_finds_images_of_docker_hub_that_have_a_short_name_too(
    open_mirror: LiveService, node: MakeNode
) -> None:
    machine = node(open_mirror, "dockerd", "docker")
    section = PAGE["dockerd"]
    machine.write(section.files)
    start_dockerd(machine)
    [pull] = commands(section, "docker pull")
    assert machine.attempt(pull).returncode != 0, "the image has no short name yet"
    send_curl_request(open_mirror, section)
    machine.run(pull)
    assert pulled_by("docker", machine, "redis:7") == str(REDIS.digest)
    assert requested_repositories(machine) == {"library/redis"}
    machine.run(f"docker pull {NAME}/quay.io/team/app:1")
    assert pulled_by("docker", machine, f"{NAME}/quay.io/team/app:1") == str(APP.digest)


def test_the_job_of_the_page_that_gives_both_names_is_accepted(open_mirror: LiveService) -> None:
    body = PAGE["dockerd"].text("json")
    headers = {**open_mirror.headers, "Content-Type": "application/json"}
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        answer = pool.request("POST", f"{open_mirror.url}/v1/jobs", body=body, headers=headers)
        assert answer.status == 202, answer.data
        job = answer.headers["Location"].removeprefix(f"https://{NAME}")
        tasks = pool.request("GET", f"{open_mirror.url}{job}/tasks", headers=headers).json()
    assert [task["target"] for task in tasks["items"]] == [HUB, "library/redis:7"]


@pytest.mark.parametrize(("client", "name"), [("docker", f"{NAME}/{HUB}"), ("podman", HUB)])
def test_docker_and_podman_log_in_to_the_mirror(
    closed_mirror: LiveService, node: MakeNode, client: str, name: str
) -> None:
    machine = node(closed_mirror, client, *(["dockerd"] if client == "docker" else []))
    machine.write(PAGE["podman and CRI-O"].files)
    if client == "docker":
        start_dockerd(machine)
    login, pull = commands(PAGE["With a login/docker and podman"], f"{client} ")
    assert machine.attempt(pull).returncode != 0, "the mirror is closed"
    run_all(machine, (login, pull))
    assert pulled_by(client, machine, name) == str(REDIS.digest)


def test_dockerd_sends_its_mirror_the_login_of_docker_hub_and_no_other(
    closed_mirror: LiveService, node: MakeNode, held: SeededCatalog
) -> None:
    held.hold(REDIS, "library/redis:7", source=HUB)
    machine = node(closed_mirror, "dockerd", "docker")
    machine.write(PAGE["dockerd"].files)
    start_dockerd(machine)

    def sent_with_a_login_for(host: str) -> set[str | None]:
        seen = len(machine.requests())
        machine.write({"~/.docker/config.json": docker_config(host, "user:secret")})
        assert machine.attempt("docker pull redis:7").returncode != 0
        return {request.authorization for request in machine.requests()[seen:]}

    assert sent_with_a_login_for(NAME) == {None}
    assert f"Basic {base64.b64encode(b'user:secret').decode()}" in sent_with_a_login_for("https://index.docker.io/v1/")


def docker_config(host: str, login: str) -> str:
    return json.dumps({"auths": {host: {"auth": base64.b64encode(login.encode()).decode()}}})


def test_containerd_sends_the_login_of_its_hosts_file(closed_mirror: LiveService, node: MakeNode) -> None:
    machine = node(closed_mirror, "containerd", "ctr")
    section = PAGE["With a login/containerd"]
    machine.write(PAGE["containerd"].files)
    start_containerd(machine)
    [pull] = section.commands
    assert machine.attempt(pull).returncode != 0, "the mirror is closed"
    machine.write({path: text.replace("TOKEN", closed_mirror.token) for path, text in section.files.items()})
    machine.run(pull)
    assert pulled_by_ctr(machine, HUB) == str(REDIS.digest)


def test_the_pull_secret_is_a_login_that_clients_take(closed_mirror: LiveService, node: MakeNode) -> None:
    machine = node(closed_mirror, "dockerd", "docker", "podman", "skopeo")
    secret, pod = yaml.safe_load_all(PAGE["With a login/Kubernetes: imagePullSecret"].text("yaml"))
    assert pod["spec"]["imagePullSecrets"] == [{"name": secret["metadata"]["name"]}]
    image = pod["spec"]["containers"][0]["image"]
    value = base64.b64encode(f"mirror:{closed_mirror.token}".encode()).decode()
    machine.write({"~/.docker/config.json": secret["stringData"][".dockerconfigjson"].replace("BASE64", value)})
    start_dockerd(machine)
    machine.run(f"docker pull {image}")
    assert pulled_by("docker", machine, image) == str(REDIS.digest)
    machine.run(f"podman pull --authfile /run/home/.docker/config.json {image}")
    assert pulled_by("podman", machine, image) == str(REDIS.digest)
    raw = machine.run(f"skopeo inspect --raw --authfile /run/home/.docker/config.json docker://{image}")
    assert Digest.of(raw.encode()) == REDIS.digest


def test_a_private_ca_is_trusted_where_the_page_says(
    open_mirror: LiveService, node: MakeNode, held: SeededCatalog, certificate: Issued
) -> None:
    held.hold(REDIS, "library/redis:7", source=HUB)
    machine = node(open_mirror, "containerd", "ctr", "dockerd", "docker", "podman", trusts=False)
    section = PAGE["With a private CA"]
    for name in ("containerd", "podman and CRI-O", "dockerd"):
        machine.write(PAGE[name].files)
    start_containerd(machine)
    start_dockerd(machine)
    pulls = [*section.commands, "podman pull docker.io/library/redis:7", "docker pull redis:7"]
    for pull in pulls:
        assert machine.attempt(pull).returncode != 0, f"{pull}: the CA is not trusted"
    assert machine.requests() == []

    named = re.findall(r"^\| .* \| `(/\S+)` \|$", documentation("how-to/pull-from-nodes.md").read_text(), re.MULTILINE)
    assert len(named) == 2, named
    paths = [*named, *(path for text in section.files.values() for path in re.findall(r'ca = "(\S+)"', text))]
    machine.write({**section.files, **dict.fromkeys(paths, certificate.authority.read_text())})
    run_all(machine, pulls)
    assert pulled_by_ctr(machine, HUB) == pulled_by_ctr(machine, f"{NAME}/{HUB}") == str(REDIS.digest)
    assert pulled_by("podman", machine, HUB) == str(REDIS.digest)
    assert pulled_by("docker", machine, "redis:7") == str(REDIS.digest)


def test_plain_http_works_where_it_is_allowed(open_mirror: LiveService, node: MakeNode, held: SeededCatalog) -> None:
    held.hold(REDIS, "library/redis:7", source=HUB)
    machine = node(open_mirror, "containerd", "ctr", "dockerd", "docker", "podman", trusts=False)
    section = PAGE["Over plain HTTP"]
    machine.write(section.files)
    start_containerd(machine)
    start_dockerd(machine)
    run_all(machine, section.commands)
    assert pulled_by_ctr(machine, HUB) == str(REDIS.digest)
    assert pulled_by("podman", machine, HUB) == str(REDIS.digest)
    assert pulled_by("docker", machine, "redis:7") == str(REDIS.digest)
    assert pulled_by("docker", machine, f"{NAME}:8080/{HUB}") == str(REDIS.digest)
