"""Configure gunicorn: a few processes, a greenlet for each connection, and an end within two seconds."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from mirror.settings import Settings
from service.app import create_app
from service.core import Service
from service.http.access_log import AccessLog
from service.http.connections import Worker, bound_unsent, raise_open_files
from service.http.tls import ServerCertificate

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

PROCESSES: Final = 2
"""One more than needed, so that a pull goes on while Python hashes or parses for another one."""
HEAD_SECONDS: Final = 30
"""Seconds until a request's head must be complete. They start with the connection, or after the previous answer."""
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - gunicorn's heartbeat files; a disk would stall it
_INVALID: Final = "Invalid request from ip="


class Server(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """The arbiter and its processes. Each process makes its own `Service` after the fork: no connection is shared."""

    def __init__(self, settings: Settings, certificate: ServerCertificate | None = None) -> None:
        self.certificate = certificate
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        service = Service.connect(self._settings)
        service.readiness.begin()  # so that the log says at once what is missing
        application = AccessLog(create_app(service))
        # These objects stay for ever. When the garbage collector visited them, a request took up to 0.1 s longer, and
        # 8 MiB that the process shared with the arbiter were copied.
        gc.freeze()
        return application


class LibraryLogger(Logger):  # type: ignore[misc] # gunicorn has no types
    """Sends gunicorn's log through `mirror.log`, without queries and headers of requests."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        # When many streams end at once, the pool discards some connections. That needs no log line each.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

    def access(self, *_: object) -> None:
        """Write nothing: `AccessLog` writes that line."""

    def warning(self, msg: str, *args: object, **kwargs: Any) -> None:
        super().warning(msg.partition(": ")[0] if msg.startswith(_INVALID) else msg, *args, **kwargs)

    def exception(self, msg: str, *args: object, **kwargs: Any) -> None:
        shown = [arg.partition("?")[0] if isinstance(arg, str) else arg for arg in args]
        super().exception(msg, *shown, **kwargs)


def options(settings: Settings) -> dict[str, object]:
    """Return gunicorn's settings. Only heartbeat files are written, so the root file system may be read-only."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": Worker,
        "workers": PROCESSES,
        "worker_connections": raise_open_files(),
        "graceful_timeout": 2,
        "keepalive": HEAD_SECONDS,
        "limit_request_line": 8190,
        "limit_request_fields": 64,
        "limit_request_field_size": 8190,
        "forwarded_allow_ips": "",  # the public URL is a setting: headers of proxies are not trusted
        "forwarder_headers": "",
        "worker_tmp_dir": str(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        "control_socket_disable": True,
        "proc_name": "image-mirror",
        "logger_class": LibraryLogger,
        "when_ready": bound_unsent,
        "certfile": _text(
            settings.tls_certificate
        ),  # `Worker` does TLS. This is for the scheme of requests and the log
        "keyfile": _text(settings.tls_key),
    }


def _text(path: Path | None) -> str | None:
    return str(path) if path else None
