"""The script that cron calls."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.servers.programs import REPOSITORY, program
from tests.unit.deploy.launch import environment


class Mirror(HTTPServer):
    """Answers jobs with *status*, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.status = 202
        self.asked: list[tuple[str | None, object]] = []


class Request(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Mirror)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.headers["Authorization"], body))
        answer = b'{"detail": "as told"}'
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(mirror: Mirror, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program("curl")
    token = tmp_path / "token"
    token.write_text("a-token\n")
    told = {"MIRROR_URL": f"http://127.0.0.1:{mirror.server_port}", "MIRROR_TOKEN_FILE": str(token)}
    command = [str(REPOSITORY / "deploy" / "cron" / "mirror-image"), *arguments]
    return subprocess.run(command, env=environment() | told, capture_output=True, text=True)


def test_an_accepted_job_is_silent(mirror: Mirror, tmp_path: Path) -> None:
    answer = ask(mirror, tmp_path, "redis:7", "team/redis:7")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert mirror.asked == [("Bearer a-token", {"source": "redis:7", "target": "team/redis:7"})]


def test_without_a_target_none_is_sent(mirror: Mirror, tmp_path: Path) -> None:
    ask(mirror, tmp_path, "docker.io/library/redis@sha256:" + "a" * 64)
    assert mirror.asked == [("Bearer a-token", {"source": "docker.io/library/redis@sha256:" + "a" * 64})]


def test_a_refused_job_is_told_so_that_cron_sends_mail(mirror: Mirror, tmp_path: Path) -> None:
    mirror.status = 422
    answer = ask(mirror, tmp_path, "redis:7")
    assert answer.returncode == 1
    assert "redis:7 was not accepted" in answer.stderr
    assert "as told" in answer.stderr


@pytest.mark.parametrize("source", ['redis", "x": "', "redis:7\n", "$(id)"])
def test_what_is_no_reference_is_not_sent(mirror: Mirror, tmp_path: Path, source: str) -> None:
    assert ask(mirror, tmp_path, source).returncode == 2
    assert mirror.asked == []
