"""Lines of all kinds of processes in one style."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from deploy.local.lines import LineRenderer
from mirror.settings import Settings

OURS = b'{"event": "task started", "level": "info", "timestamp": "2026-01-02T03:04:05Z", "process": "worker", "n": 1}'
PROBE = b'{"method": "GET", "path": "/livez", "status": 200, "event": "request", "level": "info", "process": "service"}'
VALKEY = b"12345:M 28 Nov 2026 14:05:17.575 # WARNING Memory overcommit must be enabled!"
VALKEY_NOTICE = b"12345:M 28 Nov 2026 14:05:17.575 * Ready to accept connections tcp"
RCLONE = (
    b'{"level":"error","msg":"PUT failed\\n","object":"a/b","source":"serve/s3.go:1","time":"2026-11-28T14:05:18Z"}'
)
RCLONE_NOTICE = (
    b'{"level":"notice","msg":"Starting s3 server","source":"slog/logger.go:256","time":"2026-11-28T14:05:18Z"}'
)
TRACEBACK = b'  File "x.py", line 3, in <module>'
BROKEN = b'{"event": "cut of'


def renderer(**settings: Any) -> LineRenderer:
    return LineRenderer(Settings(**settings), io.StringIO())


@pytest.mark.parametrize(
    "line", [OURS, PROBE, VALKEY, RCLONE, RCLONE_NOTICE, TRACEBACK, BROKEN, b"{}", b"[1]", b"\xff{"]
)
def test_every_line_is_one_json_object_with_time_level_process_and_event(line: bytes) -> None:
    shown = renderer().line("p", line)
    assert shown.count(b"\n") == 1
    event = json.loads(shown)
    assert {"event", "level", "process"} <= event.keys()
    assert event["level"] in ("debug", "info", "warning", "error")


def test_our_own_json_lines_stay_as_they_are() -> None:
    assert renderer().line("worker-1", OURS) == OURS + b"\n"


@pytest.mark.parametrize(
    ("line", "level", "event"),
    [
        (VALKEY, "warning", "WARNING Memory overcommit must be enabled!"),
        (VALKEY_NOTICE, "info", "Ready to accept connections tcp"),
        (RCLONE, "error", "PUT failed"),
        (RCLONE_NOTICE, "info", "Starting s3 server"),
        (TRACEBACK, "info", '  File "x.py", line 3, in <module>'),
        (BROKEN, "info", '{"event": "cut of'),
    ],
)
def test_lines_of_servers_get_their_level_and_text(line: bytes, level: str, event: str) -> None:
    shown = json.loads(renderer().line("s3", line))
    assert (shown["level"], shown["event"], shown["process"]) == (level, event, "s3")


def test_servers_are_held_to_the_level_and_a_traceback_is_not() -> None:
    quiet = renderer(log_level="error")
    assert quiet.line("valkey", VALKEY) == b""
    assert quiet.line("s3", RCLONE_NOTICE) == b""
    assert quiet.line("s3", RCLONE)
    assert quiet.line("worker", TRACEBACK)
    assert renderer(log_level="warning").line("valkey", VALKEY)


def test_a_person_sees_all_kinds_in_one_style_with_the_process_that_printed_them() -> None:
    person = renderer(log_format="text")
    shown = [person.line("worker-1", line).decode() for line in (OURS, VALKEY, RCLONE, TRACEBACK)]
    assert [line.split()[2] for line in shown] == ["worker-1"] * 4
    assert all(line[2] == line[5] == ":" for line in shown)
    assert [line.split()[1] for line in shown] == ["info", "warning", "error", "info"]
    assert person.line("service", PROBE) == b""


@pytest.mark.parametrize("blank", [b"", b"  ", b"\r"])
def test_blank_lines_are_dropped(blank: bytes) -> None:
    assert renderer().line("any", blank) == renderer(log_format="text").line("any", blank) == b""


def test_a_line_nested_too_deeply_to_be_read_is_text() -> None:
    assert json.loads(renderer().line("any", b'{"a":' * 200_000))["level"] == "info"
