"""What the script `mirror-image` sends, what it refuses to send, and what it makes of a wrong answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.records.job_request import MOST_IMAGES, JobRequestSchema
from tests.integration.deploy.cron_script import CRON, SCRIPT, SHELLS, in_shell, list_of_config_map, run


class Portal(BaseHTTPRequestHandler):
    """A web server that returns *status* and *page* for a POST, and keeps the bodies.

    A GET returns the page of its path.
    """

    status: int
    page: bytes
    pages: Mapping[str, tuple[int, Any]]
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self._reply(self.status, self.page)

    def do_GET(self) -> None:
        status, document = self.pages[self.path]
        self._reply(status, json.dumps(document).encode())

    def _reply(self, status: int, page: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args: object) -> None:
        """Do not log."""


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the script's variables for a server that is no mirror."""
    Portal.status, Portal.page, Portal.pages, Portal.bodies = 200, b"", {}, []
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


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[str | Path], dict[str, str]]:
    """The command that runs the script in each shell, and its variables."""
    return in_shell(request.param, tmp_path / "bin")


Shell = tuple[list[str | Path], dict[str, str]]


def run_list(shell: Shell, portal: dict[str, str], text: str) -> CompletedProcess[str]:
    """Run the script with a file of images that holds *text*."""
    command, variables = shell
    path = Path(portal["MIRROR_TOKEN_FILE"]).parent / "images"
    path.write_bytes(text.encode())
    return run([*command, "-f", path], portal | variables)


LIST = (
    "\ufeff# the base images\r\n\r\nredis:7\r\n"
    "  alpine:3.20=base/alpine:3.20 # also under a shorter name\r\n"
    "\t#quay.io/team/app:1\n \t\nquay.io/team/app@sha256:" + "a" * 64
)
LISTED = [
    {"source": "redis:7"},
    {"source": "alpine:3.20", "target": "base/alpine:3.20"},
    {"source": f"quay.io/team/app@sha256:{'a' * 64}"},
]


def test_a_file_of_images_is_one_request(shell: Shell, portal: dict[str, str]) -> None:
    run_list(shell, portal, LIST)
    (body,) = Portal.bodies
    assert json.loads(body) == {"images": LISTED}


def test_the_list_may_come_from_stdin(shell: Shell, portal: dict[str, str]) -> None:
    command, variables = shell
    answer = run([*command, "-f", "-"], portal | variables, text=LIST)
    (body,) = Portal.bodies
    assert json.loads(body) == {"images": LISTED}
    assert "the list from stdin was not accepted" in answer.stderr


def test_as_many_images_as_a_job_may_have_are_one_request(shell: Shell, portal: dict[str, str]) -> None:
    sources = [f"registry.example.com/team/a-name-of-some-length/app-{n}:{n}" for n in range(MOST_IMAGES)]
    run_list(shell, portal, "\n".join(sources))
    (body,) = Portal.bodies
    assert [image["source"] for image in json.loads(body)["images"]] == sources
    assert len(body) < JobRequestSchema.max_body


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("redis:7\n\nredis 7\n", "line 3: 'redis 7' is not SOURCE or SOURCE=TARGET"),
        ("redis:7#latest", "line 1: 'redis:7#latest' is not"),
        ("a=b=c", "line 1: 'a=b=c' is not"),
        ('redis", "x": "', 'line 1: \'redis", "x": "\' is not'),
        ("redis:7\x1b[2J", "line 1: 'redis:7?[2J' is not"),
        ("", "no image is named"),
        ("# nothing\n\n \t# yet\n", "no image is named"),
        ("redis:7\n" * (MOST_IMAGES + 1), f"{MOST_IMAGES + 1} images are too many for one job"),
    ],
)
def test_a_file_that_is_no_list_of_images_is_refused(
    shell: Shell, portal: dict[str, str], text: str, reason: str
) -> None:
    answer = run_list(shell, portal, text)
    assert answer.returncode == 2
    assert f"mirror-image: {reason}" in answer.stderr
    assert Portal.bodies == []


@pytest.mark.parametrize("text", [(CRON / "images.txt").read_text(), list_of_config_map()])
def test_the_lists_of_the_examples_are_requests(portal: dict[str, str], text: str) -> None:
    run([SCRIPT, "-f", "-"], portal, text=text)
    (body,) = Portal.bodies
    images = JobRequestSchema().loads(body).images
    sources = [str(Reference.parse(image.source)) for image in images]
    assert sources == ["docker.io/library/redis:7", "docker.io/library/alpine:3.20"]
    assert str(LocalImage.parse(images[1].target)) == "base/alpine:3.20"


def test_a_page_of_tasks_that_cannot_be_read_is_reported_after_those_that_could(portal: dict[str, str]) -> None:
    failed = {"state": "failed", "source": "redis:7", "error": {"code": "DENIED", "message": "No", "hint": "Log in"}}
    job, tasks = "/v1/jobs/job_1", "/v1/jobs/job_1/tasks?limit=100"
    Portal.status, Portal.page = 202, b'{"id": "job_1"}'
    Portal.pages = {
        job: (200, {"state": "partial", "images": {"total": 101}}),
        tasks: (200, {"items": [failed], "next": "bmV4dA"}),
        f"{tasks}&cursor=bmV4dA": (404, {"code": "JOB_UNKNOWN", "detail": "There is no such job", "hint": ""}),
    }
    answer = run([SCRIPT, "redis:7"], portal)
    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [
        "mirror-image: job_1 ended partial",
        "mirror-image: redis:7: DENIED: No (Log in)",
        "mirror-image: its tasks cannot be read: JOB_UNKNOWN: There is no such job",
    ]


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
    answer = run([SCRIPT, "redis:7"], portal)
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
        ["redis:7"] * (MOST_IMAGES + 1),
        ["-t"],
        ["-f"],
        ["-f", ""],
        ["-f", "missing/file"],
        ["-f", "/"],
        ["-f", str(CRON / "images.txt"), "redis:7"],
        ["-f", str(CRON / "images.txt"), "-f", "-"],
    ],
)
def test_a_wrong_call_prints_the_usage_and_sends_nothing(portal: dict[str, str], arguments: list[str]) -> None:
    answer = run([SCRIPT, *arguments], portal)
    assert answer.returncode == 2
    assert "usage: mirror-image" in answer.stderr
    assert Portal.bodies == []


@pytest.mark.parametrize("token", [None, "", "\n"])
def test_without_a_token_nothing_is_sent(portal: dict[str, str], tmp_path: Path, token: str | None) -> None:
    file = tmp_path / "other-token"
    if token is not None:
        file.write_text(token)
    answer = run([SCRIPT, "redis:7"], portal | {"MIRROR_TOKEN_FILE": str(file)})
    assert answer.returncode == 1
    assert "token" in answer.stderr
    assert Portal.bodies == []
