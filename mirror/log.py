"""Logs: one JSON object per line, or lines for a person who reads them on a terminal.

Everything goes through structlog's renderers, also what libraries log with the standard library. Context such as
``request_id`` and ``job_id`` is bound with `structlog.contextvars`. It stands on every line that the same thread, or
greenlet of the service, writes until it is cleared. A thread that it starts has none of it. `TextRenderer` is also what
`make run` shows the lines of all its processes with.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Any, Final, Literal

import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]

PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that machines ask for every few seconds. Their requests are no news to a person."""
_OURS: Final = ("mirror", "service", "worker", "deploy")
_QUIET: Final = ("botocore", "boto3", "urllib3", "s3transfer")
"""Libraries whose debug lines print URLs and headers."""
_TRACEBACK: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Local variables would show tokens and passwords."""
_HIDDEN: Final = frozenset({"logger", "task_id", "fence", "process"})
"""Fields that a person does not need. The JSON lines have them."""
_EVENT_WIDTH: Final = 22
_PROCESS_WIDTH: Final = 9
_LEVEL_WIDTH: Final = 7


def configure(process: str, *, level: Level = "info", line_format: Format = "auto") -> None:
    """Log to stdout as *process*. Called once, before the process logs anything.

    At ``debug`` only our own loggers say more. Those of libraries would print what they send, secrets included.
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
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    text = is_text(line_format, sys.stdout)
    handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(level.upper())  # a library may lower the level of a logger of its own
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(text)))
    if text:
        handler.addFilter(lambda record: not (isinstance(record.msg, dict) and is_probe(record.msg)))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(handler.level, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(handler.level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(handler.level, logging.WARNING))


def is_text(line_format: Format, stream: IO[str]) -> bool:
    """Whether lines are for a person: if that is asked for, or if *stream* is a terminal."""
    return line_format == "text" or (line_format == "auto" and stream.isatty())


def is_probe(event: Mapping[str, Any]) -> bool:
    """Whether the event is a request by which a machine asks how the service is."""
    return event.get("event") == "request" and event.get("path") in PROBES


def _rendering(text: bool) -> list[Processor]:
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.ExceptionRenderer(_TRACEBACK),
        TextRenderer(colors=has_colors(sys.stdout)) if text else structlog.processors.JSONRenderer(),
    ]


def has_colors(stream: IO[str]) -> bool:
    """Whether a person wants colours: on a terminal that knows them, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class TextRenderer:
    """Render an event as a line for a person: time of day, level, process, event, then what belongs to it.

    Remote parties choose some of the text. So nothing that a terminal would obey is passed on to it.
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
        """Return what is rendered of the event, made printable; the job comes last, since its id is long."""
        facts = {key: value for key, value in event.items() if key not in _HIDDEN and not _says_nothing(value)}
        shown: dict[str, Any] = {
            "time": _time_of_day(facts.pop("timestamp", None)),
            "level": facts.pop("level", "info"),
            "process": _printable(str(event.get("process", ""))),
            "event": _printable(_sentence(facts)),
        }
        if exception := facts.pop("exception", None):
            shown["exception"] = _traceback(exception)
        facts |= {key: facts.pop(key) for key in ("job_id", "request_id") if key in facts}
        return shown | {_printable(key): _value(key, value) for key, value in facts.items()}

    def _level(self, key: str, value: object) -> str:
        return f"{self._level_styles.get(str(value), '')}{_printable(str(value)):<{_LEVEL_WIDTH}}{self._reset}"


def _says_nothing(value: object) -> bool:
    return value is None or value is False or value == ""


def _sentence(facts: dict[str, Any]) -> str:
    """Take from *facts* what the line begins with. A request is named as it is sent."""
    event = str(facts.pop("event", ""))
    if event != "request" or not {"method", "path", "status"} <= facts.keys():
        return event
    facts.pop("request_id", None)
    return f"{facts.pop('method')} {facts.pop('path')} {facts.pop('status')}"


def _time_of_day(timestamp: object) -> str:
    """Return the hour, minute and second in this machine's time zone."""
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
    """Replace what is no printable character, such as an escape sequence or a line break, by Python's escape for it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _traceback(exceptions: object) -> str:
    """Render structlog's list of an exception and its causes as lines, the first cause first."""
    if not isinstance(exceptions, list):
        return _printable(str(exceptions))
    lines = []
    for raised in reversed(exceptions):
        frames = raised.get("frames", [])
        lines += [f"  {frame.get('filename')}:{frame.get('lineno')} in {frame.get('name')}" for frame in frames]
        lines.append(f"  {raised.get('exc_type')}: {raised.get('exc_value')}")
    return "\n".join(map(_printable, lines))
