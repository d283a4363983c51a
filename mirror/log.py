"""Logging: one JSON object per line, or lines for people who read them on a terminal.

structlog renders all lines, and those that libraries write with the standard library. Context such as
``request_id`` and ``job_id`` is bound with `structlog.contextvars`. All later lines of the same thread, or of the same
greenlet of the service, have it until it is cleared. New threads do not inherit it. `make run` also uses `TextRenderer`
to show the lines of all its processes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import IO, Any, Final, Literal

import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]

PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that monitoring requests every few seconds. Text for people leaves these requests out."""
_QUIET: Final = ("botocore", "boto3", "urllib3", "s3transfer")
"""Libraries whose debug lines print URLs and headers."""
_TRACEBACK: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""No local variables: they may contain tokens and passwords."""
_HIDDEN: Final = frozenset({"logger", "task_id", "fence", "process"})
"""Fields that only JSON lines show."""
_EVENT_WIDTH: Final = 22
_PROCESS_WIDTH: Final = 9
_LEVEL_WIDTH: Final = 7


def configure(process: str, *, level: Level = "info", line_format: Format = "auto") -> None:
    """Log to stdout as *process*. Call it once, before the process logs anything.

    At ``debug``, only our own loggers log more. Those of libraries would print what they send, including secrets.
    """

    def add_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
    ]
    text = is_text(line_format, sys.stdout)
    structlog.configure(
        processors=[*([_drop_probe] if text else []), *shared, *_rendering(text)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=partial(LineLogger, sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(level.upper())  # a library may lower the level of its own logger
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(text)],
        )
    )
    logging.getLogger().handlers = [handler]
    _set_levels(handler.level)


class LineLogger:
    """Writes our own lines. The standard library's logger would take a third of the CPU of a small request.

    It has no lock that a fork could leave locked. A line is one call of ``write``.
    """

    def __init__(self, stream: IO[str], name: str) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()

    debug = info = warning = error = critical = exception = msg


def _drop_probe(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if is_probe(event):
        raise structlog.DropEvent
    return event


def _set_levels(level: int) -> None:
    logging.getLogger().setLevel(max(level, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def is_text(line_format: Format, stream: IO[str]) -> bool:
    """Whether lines are text for people: if the format says so, or if *stream* is a terminal."""
    return line_format == "text" or (line_format == "auto" and stream.isatty())


def is_probe(event: Mapping[str, Any]) -> bool:
    """Whether the event is a request of monitoring."""
    return event.get("event") == "request" and event.get("path") in PROBES


def _rendering(text: bool) -> list[Processor]:
    return [
        structlog.processors.ExceptionRenderer(_TRACEBACK),
        TextRenderer(colors=has_colors(sys.stdout)) if text else structlog.processors.JSONRenderer(),
    ]


def has_colors(stream: IO[str]) -> bool:
    """Whether to use colours: on a terminal that supports them, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class TextRenderer:
    """Render an event as a line for people: time of day, level, process, event, then its fields.

    Some of the text comes from remote servers. So control characters are escaped before a terminal can obey them.
    """

    def __init__(self, *, colors: bool) -> None:
        styles = ConsoleRenderer.get_default_column_styles(colors)
        self._level_styles = ConsoleRenderer.get_default_level_styles(colors)
        self._reset = styles.reset

        def bare(style: str, width: int = 0) -> KeyValueColumnFormatter:
            return KeyValueColumnFormatter(None, style, styles.reset, value_repr=str, width=width)

        columns = [
            Column("time", bare(styles.timestamp)),
            Column("level", self._level),
            Column("process", bare(styles.logger_name, _PROCESS_WIDTH)),
            Column("event", bare(styles.bright, _EVENT_WIDTH)),
            Column("", KeyValueColumnFormatter(styles.kv_key, styles.kv_value, styles.reset, value_repr=str)),
        ]
        self._render = ConsoleRenderer(columns=columns, sort_keys=False, exception_formatter=plain_traceback)

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        return self._render(logger, name, self._shown(event))

    def _shown(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields to render, with printable text. The job is last because its id is long."""
        facts = {key: value for key, value in event.items() if key not in _HIDDEN and not _is_empty(value)}
        shown: dict[str, Any] = {
            "time": _time_of_day(facts.pop("timestamp", None)),
            "level": facts.pop("level", "info"),
            "process": _printable(str(event.get("process", ""))),
            "event": _printable(_take_title(facts)),
        }
        if exception := facts.pop("exception", None):
            shown["exception"] = _traceback(exception)
        facts |= {key: facts.pop(key) for key in ("job_id", "request_id") if key in facts}
        return shown | {_printable(key): _value(key, value) for key, value in facts.items()}

    def _level(self, key: str, value: object) -> str:
        return f"{self._level_styles.get(str(value), '')}{_printable(str(value)):<{_LEVEL_WIDTH}}{self._reset}"


def _is_empty(value: object) -> bool:
    return value is None or value is False or value == ""


def _take_title(facts: dict[str, Any]) -> str:
    """Remove the event from *facts* and return it. For a request, return its method, path and status."""
    event = str(facts.pop("event", ""))
    if event != "request" or not {"method", "path", "status"} <= facts.keys():
        return event
    facts.pop("request_id", None)
    return f"{facts.pop('method')} {facts.pop('path')} {facts.pop('status')}"


def _time_of_day(timestamp: object) -> str:
    """Return hour, minute and second in the time zone of this machine."""
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"


def _value(key: str, value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if key == "seconds":
            return f"{value:.3g}s" if value < 100 else f"{value:.0f}s"
        if key == "bytes":
            return _size(value)
    if not isinstance(value, str):
        return json.dumps(value, default=str)
    text = _printable(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(' "=') or not text else text


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.4g}TB"


def _printable(text: str) -> str:
    """Escape characters that are not printable, such as line breaks, in Python's way."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _traceback(exceptions: object) -> str:
    """Render structlog's list of an exception and its causes as lines, the root cause first."""
    if not isinstance(exceptions, list):
        return _printable(str(exceptions))
    lines = []
    for raised in reversed(exceptions):
        frames = raised.get("frames", [])
        lines += [f"  {frame.get('filename')}:{frame.get('lineno')} in {frame.get('name')}" for frame in frames]
        lines.append(f"  {raised.get('exc_type')}: {raised.get('exc_value')}")
    return "\n".join(map(_printable, lines))
