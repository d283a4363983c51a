"""The script `mirror-image` against the real API and a real worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.api.live_service import LiveService
from tests.e2e.processes import Process
from tests.integration.deploy.launch import environment
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.servers import RcloneS3, ValkeyServer
from tests.support.servers.process import REPOSITORY, program

SCRIPT = REPOSITORY / "deploy" / "cron" / "mirror-image"
SHIM = '#!/bin/sh\nprintf "%s\\n" "$0 $*" >>"$CURL_CALLS"\nexec "$CURL" "$@"\n'


@dataclass
class Mirror:
    """A service, a worker, a registry with images to mirror, and the script."""

    service: LiveService
    registry: FakeRegistry
    directory: Path

    def script(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        token = self.directory / "token"
        token.write_text(f"{self.service.token}\n")
        settings = {"MIRROR_URL": f"{self.service.url}/", "MIRROR_TOKEN_FILE": str(token), **variables}
        return run(*arguments, **settings)

    def source(self, name: str) -> str:
        """Put an image into the registry, and return the source to mirror it from."""
        repository, _, tag = name.partition(":")
        self.registry.put(images.image(images.layer(name)), repository, tag)
        return f"{self.registry.host}/{name}"

    def job(self, output: str) -> Any:
        """Return the job whose id the script printed."""
        found = re.search(r"job_\w+", output)
        assert found, output
        url = f"{self.service.url}/v1/jobs/{found[0]}"
        return urllib3.request("GET", url, headers=dict(self.service.headers), retries=False).json()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program("curl")
    return subprocess.run([SCRIPT, *arguments], env=environment() | variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, rclone_s3: RcloneS3) -> Iterator[Mirror]:
    directory = tmp_path_factory.mktemp("cron")
    (directory / "valkey").mkdir()
    with ExitStack() as stack:
        registry = stack.enter_context(FakeRegistry())
        valkey = stack.enter_context(ValkeyServer(directory / "valkey"))
        allowed = {"MIRROR_INSECURE_REGISTRIES": registry.host, "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8"}
        service = stack.enter_context(LiveService(directory, valkey, rclone_s3, "cron", **allowed))
        stores = {**rclone_s3.settings_env("cron"), "MIRROR_REDIS_URL": valkey.url}
        stack.enter_context(Process("worker", stores | allowed, directory / "worker.log"))
        yield Mirror(service, registry, directory)


def test_it_waits_until_the_image_is_there_under_the_given_name(mirror: Mirror) -> None:
    answer = mirror.script(f"{mirror.source('one/app:1')}=team/app:stable")
    assert (answer.returncode, answer.stderr) == (0, "")
    job = mirror.job(answer.stdout)
    assert (job["state"], job["target"]) == ("succeeded", "team/app:stable")
    assert answer.stdout.splitlines()[-1].startswith(f"{job['id']}: succeeded")


def test_several_images_are_one_job_and_a_second_time_they_are_unchanged(mirror: Mirror) -> None:
    wanted = [mirror.source("several/a:1"), f"{mirror.source('several/b:1')}=team/b:1"]
    first, second = mirror.script(*wanted), mirror.script(*wanted)
    assert (first.returncode, second.returncode) == (0, 0)
    tasks = mirror.job(first.stdout)["tasks"]
    assert [task["target"] for task in tasks][1] == "team/b:1"
    assert len(tasks) == 2
    assert "succeeded, 2 of 2 images" in second.stdout
    assert second.stdout.rstrip().endswith("2 unchanged")


def test_each_failed_image_is_reported_with_code_reason_and_hint(mirror: Mirror) -> None:
    missing = f"{mirror.registry.host}/partial/missing:1"
    answer = mirror.script(mirror.source("partial/app:1"), missing)
    assert answer.returncode == 1
    assert "ended partial" in answer.stderr
    (task,) = [task for task in mirror.job(answer.stderr)["tasks"] if task["state"] == "failed"]
    error = task["error"]
    (report,) = [line for line in answer.stderr.splitlines() if missing in line]
    assert report == f"mirror-image: {missing}: {error['code']}: {error['message']} ({error['hint']})"


def test_a_single_failed_image_is_reported_too(mirror: Mirror) -> None:
    answer = mirror.script(f"{mirror.registry.host}/single/missing:1")
    assert answer.returncode == 1
    assert "ended failed" in answer.stderr
    assert "MANIFEST_UNKNOWN" in answer.stderr


def test_a_waiting_job_is_reported_with_its_reason_until_the_timeout(mirror: Mirror) -> None:
    source = mirror.source("limited/app:1")

    def limited(request: Request, reply: Reply) -> Reply | None:
        return Reply(429, {"Retry-After": "600"}, b"") if "limited/app" in request.path else None

    mirror.registry.script(limited)
    answer = mirror.script("-t", "6", source)
    assert answer.returncode == 1
    assert f", waits (rate_limited, {mirror.registry.host}) until 20" in answer.stdout
    assert "has not ended within 6 s" in answer.stderr
    assert mirror.job(answer.stderr)["state"] == "queued"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["redis:7=docker.io/library/other:1", "UPPER/case"], "UPPER/case was not accepted: "),
        (["redis:7=quay.io/team/redis:7"], "TARGET_RESERVED: "),
    ],
)
def test_an_image_that_can_never_be_mirrored_is_not_accepted_and_the_reason_is_printed(
    mirror: Mirror, arguments: list[str], reason: str
) -> None:
    answer = mirror.script(*arguments)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert reason in answer.stderr
    assert re.search(r"was not accepted: [A-Z_]+: .+ \(.+\)", answer.stderr)


def test_a_wrong_token_is_reported_and_never_printed(mirror: Mirror, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("a-wrong-token-of-some-length")
    answer = mirror.script("redis:7", MIRROR_TOKEN_FILE=str(wrong))
    assert answer.returncode == 1
    assert "UNAUTHORIZED" in answer.stderr
    assert "a-wrong-token" not in answer.stderr + answer.stdout


def test_the_token_is_in_no_argument(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "curl").write_text(SHIM)
    (tmp_path / "curl").chmod(0o755)
    calls = tmp_path / "calls"
    path = f"{tmp_path}:{os.environ['PATH']}"
    answer = mirror.script(mirror.source("hidden/app:1"), PATH=path, CURL=str(program("curl")), CURL_CALLS=str(calls))
    assert answer.returncode == 0
    assert len(calls.read_text().splitlines()) >= 2
    assert mirror.service.token not in calls.read_text()


class Portal(BaseHTTPRequestHandler):
    """A web server that returns *status* and *page*, and counts the requests."""

    status = 200
    page = b""
    requests = 0

    def do_POST(self) -> None:
        type(self).requests += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *args: object) -> None:
        """Do not log."""


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the script's variables for a server that is no mirror."""
    Portal.status, Portal.page, Portal.requests = 200, b"", 0
    (tmp_path / "token").write_text("a-token")
    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield {
            "MIRROR_URL": f"http://127.0.0.1:{server.server_port}",
            "MIRROR_TOKEN_FILE": str(tmp_path / "token"),
        }
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "page"),
    [
        (200, b"<html>Log in</html>"),
        (202, b"<html>Accepted</html>"),
        (202, b'{"id": '),
        (202, b"{}"),
        (404, b"not found"),
        (202, json.dumps({"detail": "x" * 10}).encode() + b"}"),
    ],
)
def test_an_answer_that_is_not_the_mirrors_is_reported(portal: dict[str, str], status: int, page: bytes) -> None:
    Portal.status, Portal.page = status, page
    answer = run("redis:7", **portal)
    assert answer.returncode == 1
    assert f"redis:7 was not accepted: status {status}, which is not Image Mirror's answer" in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ['redis", "x": "'],
        ["redis:7\n"],
        ["$(id)"],
        ["redis:7="],
        ["=team/redis"],
        ["a=b=c"],
        ["-t", "soon", "redis:7"],
        ["-t", "1e3", "redis:7"],
        ["-x", "redis:7"],
        ["redis:7"] * 101,
    ],
)
def test_a_wrong_call_prints_the_usage_and_sends_nothing(portal: dict[str, str], arguments: list[str]) -> None:
    answer = run(*arguments, **portal)
    assert answer.returncode == 2
    assert "usage: mirror-image" in answer.stderr
    assert Portal.requests == 0


@pytest.mark.parametrize("token", [None, "", "\n"])
def test_without_a_token_nothing_is_sent(portal: dict[str, str], tmp_path: Path, token: str | None) -> None:
    file = tmp_path / "other-token"
    if token is not None:
        file.write_text(token)
    answer = run("redis:7", **{**portal, "MIRROR_TOKEN_FILE": str(file)})
    assert answer.returncode == 1
    assert "token" in answer.stderr
    assert Portal.requests == 0
