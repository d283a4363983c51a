"""What the processes print, in one style: JSON objects, or lines for a person on a terminal.

Our own processes write JSON lines. Valkey, rclone, supervisord and whatever a process prints as it dies have other
forms. All of them become events as `mirror.log` has them, one for each line.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import IO, Any, Final

from mirror.log import TextRenderer, has_colors, is_probe, is_text
from mirror.settings import Settings

Event = dict[str, Any]

_VALKEY: Final = re.compile(r"\d+:[A-Z] \d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3} ([.*#-]) (.*)", re.DOTALL)
"""A line of Valkey's log: process, role, time, level, text (`serverLogRaw` in its server.c)."""
_VALKEY_LEVELS: Final = {".": "debug", "-": "debug", "*": "info", "#": "warning"}
_RCLONE_LEVELS: Final = {"debug": "debug", "info": "info", "notice": "info", "warning": "warning"}
"""Those of rclone (fs/log.go) that are no error."""
_RANKS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineRenderer:
    """LargestFirst a line that a process printed into a line of ours, or into nothing."""

    def __init__(self, settings: Settings, stream: IO[str]) -> None:
        self.is_text = is_text(settings.log_format, stream)
        self._lowest = _RANKS[settings.log_level]
        self._console = TextRenderer(colors=has_colors(stream))

    def line(self, name: str, line: bytes) -> bytes:
        """Return what is shown of the *line* that the process *name* has printed."""
        text = line.decode(errors="replace").rstrip()
        if not text:
            return b""
        document = _json_object(text)
        if document is not None and "event" in document:
            return self._for_person({**document, "process": name}) if self.is_text else f"{text}\n".encode()
        if document is not None and "msg" in document:
            return self.event(name, **_rclone(document))
        if found := _VALKEY.fullmatch(text):
            return self.event(name, found[2], _VALKEY_LEVELS[found[1]])
        return self._render(name, {"event": text, "level": "info"})  # such as a traceback, which no level hides

    def event(self, name: str, event: str, level: str = "info", **facts: object) -> bytes:
        """Return what is shown of an event of the process *name*, which did not write it as we do."""
        if _RANKS[level] < self._lowest:
            return b""
        return self._render(name, {"event": event, "level": level, **facts})

    def _render(self, name: str, event: Event) -> bytes:
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        complete = {**event, "timestamp": timestamp, "process": name}
        return self._for_person(complete) if self.is_text else f"{json.dumps(complete)}\n".encode()

    def _for_person(self, event: Event) -> bytes:
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


def _rclone(line: Event) -> Event:
    """Return the event of a line that ``rclone --use-json-log`` writes."""
    level = _RCLONE_LEVELS.get(str(line.get("level")), "error")
    return {"event": str(line["msg"]).strip(), "level": level, "object": line.get("object")}
