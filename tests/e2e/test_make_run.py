"""The whole product, started as the README says, in a fresh checkout."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.oci.digest import Digest
from tests.e2e.checkout import MakeRun, fresh_checkout
from tests.e2e.page import documentation, sections
from tests.e2e.processes import eventually, is_alive
from tests.support import images
from tests.support.fakes.lists import tag_pages
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.servers import DockerRegistry, program

pytestmark = [pytest.mark.docker_registry, pytest.mark.skopeo, pytest.mark.timeout(400)]
LOGIN = ("somebody", "s3cret-pass")
TUTORIAL: Final = [
    command for section in sections(documentation("tutorial/first-mirror.md")).values() for command in section.commands
]

GUIDE: Final = [
    block.text
    for section in sections(documentation("how-to/mirror-what-you-run.md")).values()
    for block in section.blocks
]

SCHEDULES: Final = [
    block.text
    for section in sections(documentation("how-to/keep-images-current.md")).values()
    for block in section.blocks
]


@pytest.fixture(scope="module")
def docker_hub() -> Iterator[FakeRegistry]:
    """A registry with Docker Hub's token flow, whose blobs are on another host."""
    with FakeRegistry(tokens=Tokens(), token_on_api=True, redirect_blobs=True) as registry:
        yield registry


@pytest.fixture(scope="module")
def gcr() -> Iterator[FakeRegistry]:
    """The same kind of registry, with a login."""
    with FakeRegistry(tokens=Tokens(login=LOGIN), token_on_api=True, redirect_blobs=True) as registry:
        yield registry


@pytest.fixture(scope="module")
def slow() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    docker_registry: DockerRegistry,
    docker_hub: FakeRegistry,
    gcr: FakeRegistry,
    slow: FakeRegistry,
) -> Iterator[MakeRun]:
    """A ready ``make run`` that may read from the registries of these tests."""
    checkout = fresh_checkout(tmp_path_factory.mktemp("fresh"))
    config = checkout / "config.json"
    auth = base64.b64encode(":".join(LOGIN).encode()).decode()
    config.write_text(json.dumps({"auths": {"gcr.io": {"auth": auth}}}))
    plain = [docker_registry.host, docker_hub.cdn_host, gcr.cdn_host, slow.host]
    made = MakeRun(
        checkout,
        {
            "MIRROR_INSECURE_REGISTRIES": ",".join(plain),
            "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
            "MIRROR_REGISTRY_ENDPOINTS": f"docker.io={docker_hub.url},gcr.io={gcr.url}",
            "MIRROR_DOCKER_CONFIG": str(config),
        },
    )
    try:
        made.start()
        yield made
    finally:
        made.end()


def inspected(running: MakeRun, name: str) -> str:
    """Return the digest of the manifest that skopeo gets."""
    command = [str(program("skopeo")), "inspect", "--raw", "--tls-verify=false", f"docker://{running.host}/{name}"]
    shown = subprocess.run(command, check=True, capture_output=True, timeout=60)
    return str(Digest.of(shown.stdout))


def test_a_mirrored_image_is_pulled_back_under_its_sources_name_and_under_a_given_one(
    running: MakeRun, docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    image = images.three_platforms("run")
    images.push(image, docker_registry.url, "run/app", "1.0")
    source = f"{docker_registry.host}/run/app:1.0"
    job = running.mirror(source)
    assert (job["state"], job["digest"]) == ("succeeded", str(image.digest))
    assert inspected(running, f"{docker_registry.host.replace(':', '_')}/run/app:1.0") == str(image.digest)
    assert running.mirror(source, "team/given:stable")["state"] == "succeeded"
    assert inspected(running, "team/given:stable") == str(image.digest)

    copied = tmp_path / "copied"
    command = [str(program("skopeo")), "copy", "--all", "--src-tls-verify=false"]
    subprocess.run(
        [*command, f"docker://{running.host}/team/given:stable", f"dir:{copied}"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    for digest, content in image.all_blobs().items():
        assert (copied / digest.hex).read_bytes() == content


@pytest.mark.parametrize(
    ("fixture", "repository", "source", "target"),
    [
        ("docker_hub", "library/redis", "redis", "docker.io/library/redis:latest"),
        ("gcr", "project/app", "gcr.io/project/app:1", "gcr.io/project/app:1"),
    ],
)
def test_known_registries_are_reached_by_their_endpoints_with_one_token_per_repository(
    running: MakeRun, request: pytest.FixtureRequest, fixture: str, repository: str, source: str, target: str
) -> None:
    registry: FakeRegistry = request.getfixturevalue(fixture)
    image = images.three_platforms(fixture)
    registry.put(image, repository, target.rpartition(":")[2])
    job = running.mirror(source)
    assert (job["state"], job["error"], job["target"]) == ("succeeded", None, target)
    assert inspected(running, target) == str(image.digest)
    asked_for_tokens = registry.log(path="/token")
    assert len(asked_for_tokens) == 1
    assert ("Authorization" in asked_for_tokens[0].headers) == (fixture == "gcr")
    on_the_cdn = registry.log("cdn")
    assert on_the_cdn
    assert not any("Authorization" in seen.headers for seen in on_the_cdn)


def test_the_tutorial_works_as_it_is_written(running: MakeRun, docker_hub: FakeRegistry) -> None:
    """Run every command of the page after ``make run``. skopeo replaces ``docker pull``, which needs a daemon."""
    image = images.three_platforms("tutorial")
    docker_hub.put(image, "library/redis", "7")
    _, token, ask, watch, pull, list_images, list_repositories, again, rename, delete = TUTORIAL

    def typed(command: str) -> Any:
        """Run a ``curl`` of the page in the checkout. Returns the JSON that it prints, if any."""
        assert command.startswith("curl "), command
        curl = command.replace("curl", f"{program('curl')} --fail --silent --show-error", 1)
        script = f"{token}\n{curl.replace('127.0.0.1:8080', running.host)}"
        shown = subprocess.run(["sh", "-ec", script], cwd=running.checkout, check=True, capture_output=True, timeout=60)
        return json.loads(shown.stdout) if shown.stdout else None

    first = typed(ask)
    running.ended(first["id"], within=60)
    assert typed(watch.replace("job_…", first["id"]))["state"] == "succeeded"
    assert inspected(running, pull.removeprefix("docker pull 127.0.0.1:8080/")) == str(image.digest)
    assert first["target"] in {f"{listed['repository']}:{listed['tag']}" for listed in typed(list_images)["items"]}
    assert "docker.io/library/redis" in {listed["name"] for listed in typed(list_repositories)["items"]}
    assert running.ended(typed(again)["id"], within=60)["images"]["unchanged"] == 1
    assert typed(rename)["digest"] == str(image.digest)
    assert typed(delete) is None
    assert first["target"] not in {f"{listed['repository']}:{listed['tag']}" for listed in typed(list_images)["items"]}
    assert inspected(running, "team/redis:stable") == str(image.digest)


def test_the_guide_leads_to_some_tags_of_a_repository_on_two_platforms(
    running: MakeRun, docker_hub: FakeRegistry
) -> None:
    tags = ("3.17", "3.18", "3.19", "3.20", "3.21", "3.22-rc1", "latest", "edge")
    found = {tag: images.three_platforms(f"alpine {tag}") for tag in tags}
    for tag, image in found.items():
        docker_hub.put(image, "library/alpine", tag)
    docker_hub.script(tag_pages(tags))
    start, ask, read, apply, pull = GUIDE
    assert start == "make run\n"

    def typed(command: str, plan: str = "") -> Any:
        text = command.replace("127.0.0.1:8080", running.host).replace("plan_…", plan)
        done = subprocess.run(["bash", "-c", text], cwd=running.checkout, capture_output=True, check=True)
        return json.loads(done.stdout)

    plan = typed(ask)["id"]
    ready = eventually(lambda: one if (one := typed(read, plan))["state"] == "ready" else None, what="it is ready")
    assert {image["target"] for image in ready["images"]} == {f"base/alpine:{tag}" for tag in ("3.19", "3.20", "3.21")}
    assert {image["action"] for image in ready["images"]} == {"copy"}
    docker_hub.put(images.three_platforms("moved"), "library/alpine", "3.20")
    job = running.ended(typed(apply, plan)["id"], within=60)
    assert (job["state"], job["images"]["succeeded"]) == ("succeeded", 3)
    name = pull.split("127.0.0.1:8080/")[1].strip()
    assert inspected(running, name) == str(found["3.20"].digest)
    listed = running.call("GET", f"/v1/images/{name}")
    assert set(listed["platforms"]) == {"linux/amd64", "linux/arm64"}


def test_a_file_of_regsync_leads_to_a_nightly_mirror(running: MakeRun, docker_hub: FakeRegistry) -> None:
    for tag in ("3.20", "3.21", "latest"):
        docker_hub.put(images.image(images.layer(f"nightly {tag}", 4_000)), "library/alpine", tag)
    docker_hub.script(tag_pages(("3.20", "3.21", "latest")))
    redis = images.image(images.layer("nightly redis", 4_000))
    docker_hub.put(redis, "library/redis", "7")
    text, start, ask, create, read, pull, change = SCHEDULES
    (running.checkout / "regsync.yml").write_text(text)
    assert start == "make run\n"

    def typed(command: str) -> Any:
        text = command.replace("127.0.0.1:8080", running.host)
        done = subprocess.run(["bash", "-c", text], cwd=running.checkout, capture_output=True, check=True)
        return json.loads(done.stdout)

    asked = typed(ask)
    assert [schedule["name"] for schedule in asked["schedules"]] == ["alpine", "redis"]
    assert "defaults.parallel" in {ignored["path"] for ignored in asked["ignored"]}
    assert typed(read)["items"] == []
    assert {schedule["outcome"] for schedule in typed(create)["schedules"]} == {"created"}
    eventually(
        lambda: {schedule["health"]["state"] for schedule in typed(read)["items"]} == {"healthy"},
        what="both schedules have run",
    )
    name = pull.removeprefix("docker pull 127.0.0.1:8080/").strip()
    assert inspected(running, name) == str(redis.digest)
    tags = {image["tag"] for image in running.call("GET", "/v1/images?repository=nightly/alpine")["items"]}
    assert tags == {"3.20", "3.21"}
    changed = typed(change)
    assert (changed["time_zone"], changed["version"], changed["cron"]) == ("Europe/Paris", 2, "30 2 * * *")


def test_a_wrong_byte_fails_the_job_and_nothing_is_listed(running: MakeRun, slow: FakeRegistry) -> None:
    layer = images.layer("wrong", 40_000)
    slow.put(images.image(layer), "wrong/app", "1")

    def corrupt(request: Request, reply: Reply) -> Reply | None:
        if str(layer.digest) not in request.path or not isinstance(reply.body, bytes):
            return None
        return Reply(reply.status, reply.headers, b"\xff" + reply.body[1:])

    slow.script(corrupt)
    job = running.mirror(f"{slow.host}/wrong/app:1")
    assert (job["state"], job["error"]["code"]) == ("failed", "DIGEST_MISMATCH")
    listed = running.call("GET", "/v1/repositories?limit=100")["items"]
    assert not [entry for entry in listed if "wrong" in entry["name"]]
    blob = running.data / "s3" / "mirror" / "docker/registry/v2/blobs/sha256" / layer.digest.hex[:2] / layer.digest.hex
    assert not blob.exists()


def test_the_log_has_one_json_line_for_the_start_and_one_for_the_end_of_a_job(
    running: MakeRun, slow: FakeRegistry
) -> None:
    image = images.image(images.layer("logged", 40_000))
    slow.put(image, "logged/app", "1")
    jobs = [running.mirror(f"{slow.host}/logged/{name}:1") for name in ("app", "missing")]
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    logged = [[line for line in lines if line.get("job_id") == job["id"]] for job in jobs]
    assert [[line["event"] for line in lines] for lines in logged] == [
        ["task started", "task succeeded"],
        ["task started", "task failed"],
    ]
    assert {line["source"] for line in logged[0]} == {f"{slow.host}/logged/app:1"}
    assert logged[0][0]["target"] == jobs[0]["target"]
    assert logged[0][1]["bytes"] == sum(map(len, image.blobs.values()))
    assert logged[0][1]["seconds"] > 0
    assert (logged[1][1]["code"], logged[1][1]["level"]) == ("MANIFEST_UNKNOWN", "warning")
    assert logged[1][1]["hint"]


def test_the_processes_have_no_secrets_that_they_do_not_need(running: MakeRun) -> None:
    token = (running.data / "admin-token").read_text().strip()
    secrets = {path.name: path.read_text().strip() for path in (running.data / "secrets").iterdir()}
    found = {
        command: environ for pid in running.processes() if (command := command_of(pid)) for environ in [environ_of(pid)]
    }
    worker, scheduler = (found[one] for one in ("-m worker", "-m worker.scheduler"))
    for environ in (worker, scheduler):
        assert secrets["redis-password"] in environ
        assert "MIRROR_ADMIN_TOKEN" not in environ
        assert "RCLONE_AUTH_KEY" not in environ
    servers = [environ for command, environ in found.items() if "rclone" in command or "valkey-server" in command]
    assert len(servers) == 2
    for environ in servers:
        assert "MIRROR_" not in environ
        assert "AWS_" not in environ
        assert token not in environ
        assert secrets["redis-password"] not in environ
    (s3,) = [environ for command, environ in found.items() if "rclone" in command]
    assert secrets["s3-secret-key"] in s3


def command_of(pid: int) -> str:
    """Return the command line without the path of Python, or nothing."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except FileNotFoundError:
        return ""
    return " ".join(words[1:] if Path(words[0]).name.startswith("python") else words).strip()


def environ_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text(errors="replace")


def test_after_a_killed_supervisor_the_next_start_works_and_the_job_goes_on(
    running: MakeRun, slow: FakeRegistry
) -> None:
    layer = images.layer("orphaned", 20 * 2**20)
    image = images.image(layer)
    slow.put(image, "orphaned/app", "1")
    reached, opened = threading.Event(), threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if str(layer.digest) in request.path and not opened.is_set():
            reply.hold = (18 * 2**20, opened)
            reached.set()
        return reply

    slow.script(hold)
    job: dict[str, Any] = running.call("POST", "/v1/jobs", {"source": f"{slow.host}/orphaned/app:1"})
    assert reached.wait(30)
    eventually(lambda: running.call("GET", f"/v1/jobs/{job['id']}")["bytes"]["copied"], what="bytes have arrived")
    started = running.processes()
    running.kill_supervisor()
    running.start()
    opened.set()
    assert not [pid for pid in started if is_alive(pid)]
    ended = running.ended(job["id"], within=60)
    assert (ended["state"], ended["digest"]) == ("succeeded", str(image.digest))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_a_copy_leaves_no_process_and_the_next_start_finishes_the_job(
    running: MakeRun, slow: FakeRegistry, number: signal.Signals
) -> None:
    name = f"stopped-{number.name.lower()}"
    layer = images.layer(name, 20 * 2**20)
    image = images.image(layer)
    slow.put(image, f"{name}/app", "1")
    reached, opened = threading.Event(), threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if str(layer.digest) in request.path and not opened.is_set():
            reply.hold = (18 * 2**20, opened)
            reached.set()
        return reply

    slow.script(hold)
    job: dict[str, Any] = running.call("POST", "/v1/jobs", {"source": f"{slow.host}/{name}/app:1"})
    assert reached.wait(30)
    eventually(lambda: running.call("GET", f"/v1/jobs/{job['id']}")["bytes"]["copied"], what="bytes have arrived")
    running.stop(number, within=10)
    opened.set()
    running.start()
    ended = running.ended(job["id"], within=60)
    assert (ended["state"], ended["attempt"], ended["digest"]) == ("succeeded", 1, str(image.digest))
