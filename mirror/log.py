"""Logs: one JSON object per line, or, where a person looks on, a line to read.

Everything goes through structlog's renderer, also what libraries log with the standard library. Context such as
``request_id`` and ``job_id`` is bound with `structlog.contextvars` and stands on every line below it.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_QUIET: Final = ("botocore", "boto3", "urllib3", "s3transfer")
"""Libraries whose debug lines print URLs and headers."""
_TRACEBACK: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Local variables would show tokens and passwords."""


def configure(process: str) -> None:
    """Log to stdout as *process*; called once, first thing in a process."""

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
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(person=sys.stdout.isatty()))
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _rendering(*, person: bool) -> list[Processor]:
    if person:
        return [structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.dev.ConsoleRenderer()]
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.ExceptionRenderer(_TRACEBACK),
        structlog.processors.JSONRenderer(),
    ]
