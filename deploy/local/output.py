"""Forward what the processes print in one style: JSON, or lines for a person.

Our own processes write JSON lines. Valkey, rclone, supervisord and the traceback of a crash have other forms. Each of
their lines becomes one event in the form of `mirror.log`.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, Final

from mirror.log import TextRenderer, has_colors, is_probe, is_text
from mirror.settings import Settings

Event = dict[str, Any]

STDOUT: Final = 1
_LONGEST_LINE: Final = 2**20
"""Bytes after which a line is written although it has not ended."""
_VALKEY: Final = re.compile(r"\d+:[A-Z] \d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3} ([.*#-]) (.*)", re.DOTALL)
"""A line of Valkey's log: process, role, time, level, text (`serverLogRaw` in its server.c)."""
_VALKEY_LEVELS: Final = {".": "debug", "-": "debug", "*": "info", "#": "warning"}
_RCLONE_LEVELS: Final = {"debug": "debug", "info": "info", "notice": "info", "warning": "warning"}
"""rclone's levels below error (fs/log.go)."""
_RANKS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineRenderer:
    """Renders lines as MIRROR_LOG_FORMAT and MIRROR_LOG_LEVEL require."""

    def __init__(self, settings: Settings, stream: IO[str]) -> None:
        self.is_text = is_text(settings.log_format, stream)
        self._lowest = _RANKS[settings.log_level]
        self._console = TextRenderer(colors=has_colors(stream))

    def render_line(self, process: str, line: bytes) -> bytes:
        """Return what is shown of a *line* that *process* has printed. It may be nothing."""
        text = line.decode(errors="replace").rstrip()
        if not text:
            return b""
        document = _json_object(text)
        if document is not None and "event" in document:
            return self._as_text({**document, "process": process}) if self.is_text else f"{text}\n".encode()
        if document is not None and "msg" in document:
            return self.render_event(process, **_rclone_event(document))
        if found := _VALKEY.fullmatch(text):
            return self.render_event(process, found[2], _VALKEY_LEVELS[found[1]])
        return self._render(process, {"event": text, "level": "info"})  # such as a traceback, which no level hides

    def render_event(self, process: str, event: str, level: str = "info", **facts: object) -> bytes:
        """Return what is shown of an event that *process* did not print as JSON itself."""
        if _RANKS[level] < self._lowest:
            return b""
        return self._render(process, {"event": event, "level": level, **facts})

    def _render(self, process: str, event: Event) -> bytes:
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        complete = {**event, "timestamp": timestamp, "process": process}
        return self._as_text(complete) if self.is_text else f"{json.dumps(complete)}\n".encode()

    def _as_text(self, event: Event) -> bytes:
        if is_probe(event):
            return b""
        return f"{self._console(None, '', event)}\n".encode(errors="backslashreplace")


def _json_object(text: str) -> Event | None:
    if not text.startswith("{"):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _rclone_event(line: Event) -> Event:
    """Return the event of a line that ``rclone --use-json-log`` writes."""
    level = _RCLONE_LEVELS.get(str(line.get("level")), "error")
    return {"event": str(line["msg"]).strip(), "level": level, "object": line.get("object")}


def _verbatim(_: str, line: bytes) -> bytes:
    return line + b"\n"


class LineForwarder:
    """Writes what processes print to a file descriptor, in whole lines.

    *render* is passed the process and the line, and returns what is written.
    """

    def __init__(self, descriptor: int, render: Callable[[str, bytes], bytes] = _verbatim) -> None:
        self._descriptor = descriptor
        self._render = render
        self._rests: defaultdict[str, bytes] = defaultdict(bytes)
        self._closed = False

    def add(self, process: str, data: bytes) -> None:
        """Write the lines that are complete with *data*, which *process* has printed."""
        *lines, rest = (self._rests.pop(process, b"") + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        if rest:
            self._rests[process] = rest
        self.write(b"".join(self._render(process, line) for line in lines))

    def end(self, process: str) -> None:
        """Write the last, incomplete line of a process that has ended."""
        if rest := self._rests.pop(process, b""):
            self.write(self._render(process, rest))

    def write(self, data: bytes) -> None:
        """Write all of it.

        After the reader has gone, output is dropped and the product goes on.
        """
        rest = memoryview(data)
        while rest and not self._closed:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                self._closed = True
