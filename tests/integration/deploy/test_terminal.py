"""`make run` on a real terminal (a pty): it shows lines for a person and no JSON."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.integration.deploy.launch import Launch, eventually

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINE = re.compile(r"\d\d:\d\d:\d\d (debug|info|warning|error) +(\S+) +(.+)")


class Screen:
    """The output that a terminal received.

    It reads until the program on the terminal has ended.
    """

    def __init__(self) -> None:
        self.reader, self.writer = pty.openpty()
        self._read = b""
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        try:
            while piece := os.read(self.reader, 65536):
                self._read += piece
        except OSError:  # Linux raises EIO after the last program has closed the terminal
            return

    @property
    def text(self) -> str:
        return self._read.decode(errors="replace").replace("\r\n", "\n")

    def _shows(self, text: str) -> bool:
        return text in self.text

    @contextmanager
    def of(self, directory: Path, **variables: str) -> Iterator[Launch]:
        launch = Launch(directory, data=None, **variables).start(stdout=self.writer)
        os.close(self.writer)
        self._thread.start()
        with launch:
            eventually(lambda: "Ready: http://" in self.text, "it does not get ready", launch.output)
            for name in ("worker", "scheduler"):
                eventually(partial(self._shows, f"{name} says hello"), f"no {name}", lambda: self.text)
            yield launch
        self._thread.join()
        os.close(self.reader)


def test_a_terminal_shows_the_banner_and_one_style_for_all_processes(tmp_path: Path) -> None:
    screen = Screen()
    with screen.of(tmp_path, TERM="xterm", NO_COLOR="", FAKES="logs") as launch:
        eventually(lambda: "GET /v1/jobs 200" in screen.text, "no request is shown", lambda: screen.text)
    assert COLOUR.search(screen.text)
    shown = COLOUR.sub("", screen.text)
    assert f"Admin token   {launch.data / 'admin-token'}" in shown
    assert "Mirror your first image:" in shown
    after = shown.split("Ctrl-C stops everything.\n", 1)[1].split("\n")
    found = [LINE.fullmatch(line) for line in after if line]
    assert all(found), after
    processes = {match[2] for match in found if match}
    assert {"s3", "service", "worker", "scheduler", "readiness"} <= processes
    for probe in ("/livez", "/readyz", "/metrics"):
        assert probe not in shown
    assert "{" not in shown.split("Ctrl-C stops everything.\n", 1)[1]
    assert not Path(launch.output_file).read_text()


def test_a_pipe_can_show_text_while_the_processes_still_log_json(tmp_path: Path) -> None:
    with Launch(tmp_path, MIRROR_LOG_FORMAT="text", FAKES="logs") as launch:
        launch.ready()
        eventually(lambda: "GET /v1/jobs 200" in launch.output(), "no request is shown", launch.output)
        assert launch.journal("started", "worker")[0]["env"]["MIRROR_LOG_FORMAT"] == "json"
        assert "\x1b" not in launch.output()
        assert "/readyz" not in launch.output()
