"""Lines of all processes have one style and never mix."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local.output import LineForwarder, LineRenderer
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
    shown = renderer().render_line("p", line)
    assert shown.count(b"\n") == 1
    event = json.loads(shown)
    assert {"event", "level", "process"} <= event.keys()
    assert event["level"] in ("debug", "info", "warning", "error")


def test_our_own_json_lines_stay_as_they_are() -> None:
    assert renderer().render_line("worker-1", OURS) == OURS + b"\n"


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
    shown = json.loads(renderer().render_line("s3", line))
    assert (shown["level"], shown["event"], shown["process"]) == (level, event, "s3")


def test_the_log_level_hides_lines_of_servers_but_no_traceback() -> None:
    quiet = renderer(log_level="error")
    assert quiet.render_line("valkey", VALKEY) == b""
    assert quiet.render_line("s3", RCLONE_NOTICE) == b""
    assert quiet.render_line("s3", RCLONE)
    assert quiet.render_line("worker", TRACEBACK)
    assert renderer(log_level="warning").render_line("valkey", VALKEY)


def test_as_text_all_kinds_have_one_style_and_show_the_process_that_printed_them() -> None:
    person = renderer(log_format="text")
    shown = [person.render_line("worker-1", line).decode() for line in (OURS, VALKEY, RCLONE, TRACEBACK)]
    assert [line.split()[2] for line in shown] == ["worker-1"] * 4
    assert all(line[2] == line[5] == ":" for line in shown)
    assert [line.split()[1] for line in shown] == ["info", "warning", "error", "info"]
    assert person.render_line("service", PROBE) == b""


@pytest.mark.parametrize("blank", [b"", b"  ", b"\r"])
def test_blank_lines_are_dropped(blank: bytes) -> None:
    assert renderer().render_line("any", blank) == renderer(log_format="text").render_line("any", blank) == b""


def test_a_json_line_that_is_nested_too_deeply_is_shown_as_text() -> None:
    assert json.loads(renderer().render_line("any", b'{"a":' * 200_000))["level"] == "info"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_lines_of_two_processes_are_not_mixed(pipe: tuple[int, int]) -> None:
    output = LineForwarder(pipe[1])
    output.add("a", b"one\ntw")
    output.add("b", b"eins\nzwei\ndr")
    output.add("a", b"o\n")
    output.add("b", b"ei\n")
    assert os.read(pipe[0], 1000) == b"one\neins\nzwei\ntwo\ndrei\n"


def test_an_incomplete_last_line_is_written_when_its_process_ends(pipe: tuple[int, int]) -> None:
    output = LineForwarder(pipe[1])
    output.add("a", b"last words")
    output.end("a")
    output.end("a")
    assert os.read(pipe[0], 1000) == b"last words\n"


def test_output_is_dropped_when_its_reader_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = LineForwarder(writer)
    output.add("a", b"lost\n")
    output.add("a", b"lost too\n")
    os.close(writer)
