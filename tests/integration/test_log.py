"""What a process logs, as JSON and as text. No line has a secret, or anything that a terminal would obey."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from mirror.log import TextRenderer
from tests.support.servers.process import REPOSITORY

LOGS = """
import logging, sys
import structlog
from mirror.log import configure
configure("test", level=sys.argv[1], line_format=sys.argv[2])
log = structlog.get_logger("mirror.any")
for level in ("debug", "info", "warning", "error"):
    getattr(log, level)(f"ours at {level}", source="registry.corp/app:1")
    getattr(logging.getLogger("some.package"), level)(f"theirs at {level}")
    getattr(logging.getLogger("urllib3.connectionpool"), level)(f"secret at {level}")
log.info("request", method="GET", path="/readyz", status=200)
log.info("request", method="GET", path="/v1/jobs", status=200)
try:
    password = "p4ssw0rd"
    raise ValueError("what happened")
except ValueError:
    log.exception("it failed")
"""


def lines(level: str, form: str) -> list[str]:
    command = [sys.executable, "-c", LOGS, level, form]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_is_the_lowest_that_is_logged_and_libraries_log_no_more_at_debug(level: str) -> None:
    logged = [json.loads(line) for line in lines(level, "json")]
    from_here = ["debug", "info", "warning", "error"][["debug", "info", "warning", "error"].index(level) :]
    assert [line["level"] for line in logged if line["event"].startswith("ours")] == from_here
    assert [line["level"] for line in logged if line["event"].startswith("theirs")] == [
        one for one in from_here if one != "debug"
    ]
    assert {line["level"] for line in logged if line["event"].startswith("secret")} <= {"warning", "error"}


def test_json_lines_have_the_probes_and_the_frames_of_an_exception_without_local_variables() -> None:
    logged = [json.loads(line) for line in lines("info", "json")]
    assert [line["path"] for line in logged if line["event"] == "request"] == ["/readyz", "/v1/jobs"]
    assert logged[-1]["exception"][0]["exc_value"] == "what happened"
    assert "p4ssw0rd" not in json.dumps(logged)


def test_text_has_no_probe_and_shows_an_exception_without_local_variables() -> None:
    shown = "\n".join(lines("info", "text"))
    assert "GET /v1/jobs 200" in shown
    assert "/readyz" not in shown
    assert "ValueError: what happened" in shown
    assert "p4ssw0rd" not in shown
    assert "\x1b" not in shown  # a pipe gets no colours


def on_a_terminal(form: str, **variables: str) -> str:
    """Return what a terminal receives. It is less than the buffer of the terminal holds."""
    reader, writer = pty.openpty()
    command = [sys.executable, "-c", LOGS, "error", form]
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **variables}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=writer) as process:
        assert process.wait() == 0
    shown = os.read(reader, 100_000).decode().replace("\r\n", "\n")
    os.close(writer)
    os.close(reader)
    return shown


def test_a_terminal_gets_colours_unless_it_has_none_or_they_are_turned_off() -> None:
    assert "\x1b[" in on_a_terminal("auto")
    assert "ours at error" in on_a_terminal("auto")
    for wish in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = on_a_terminal("auto", **wish)
        assert "\x1b" not in shown
        assert "ours at error" in shown


def test_json_can_be_chosen_on_a_terminal() -> None:
    assert [json.loads(line)["level"] for line in on_a_terminal("json").splitlines()] == ["error"] * 4


def rendered(**event: Any) -> str:
    return TextRenderer(colors=False)(
        None, "", {"event": "task started", "level": "info", "process": "worker", **event}
    )


def test_a_line_of_text_has_time_level_process_event_and_the_job_last() -> None:
    line = rendered(
        job_id="job_1", task_id="task_1", logger="mirror.jobs", source="redis:7", timestamp="2026-01-02T03:04:05Z"
    )
    assert line.split() == [line[:8], "info", "worker", "task", "started", "source=redis:7", "job_id=job_1"]
    assert line[2] == line[5] == ":"


@pytest.mark.parametrize(
    ("fact", "shown"),
    [
        ({"seconds": 1.23456}, "seconds=1.23s"),
        ({"seconds": 3600}, "seconds=3600s"),
        ({"bytes": 12_345_678}, "bytes=12.3MB"),
        ({"bytes": 0}, "bytes=0B"),
        ({"unchanged": True}, "unchanged=true"),
        ({"reason": "asks us to wait"}, 'reason="asks us to wait"'),
        ({"at": 5}, "at=5"),
    ],
)
def test_fields_are_shown_in_a_readable_form(fact: dict[str, Any], shown: str) -> None:
    assert rendered(**fact).endswith(f" {shown}")


@pytest.mark.parametrize("empty", [{"registry": None}, {"unchanged": False}, {"hint": ""}])
def test_empty_fields_are_left_out(empty: dict[str, Any]) -> None:
    assert rendered(**empty) == rendered()


@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "a\nb", "\x9b31m", "\u202egpj", "\r", "\udcff"])
def test_control_characters_are_escaped(hostile: str) -> None:
    for line in (rendered(reason=hostile), rendered(event=hostile), rendered(**{hostile: 1}), rendered(level=hostile)):
        assert line.isprintable()
    shown = rendered(exception=[{"exc_type": "E", "exc_value": hostile, "frames": []}])
    assert all(line.isprintable() for line in shown.split("\n"))
    assert shown.count("\n") == 1


def test_the_only_colours_are_those_of_the_renderer() -> None:
    line = TextRenderer(colors=True)(None, "", {"event": "task failed", "level": "error", "process": "worker", "n": 1})
    assert "\x1b[31m" in line
    assert line.replace("\x1b[", "").isprintable()
