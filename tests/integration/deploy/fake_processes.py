"""Fake service, worker and scheduler, and the start of `make run` with them.

``python -m tests.integration.deploy.fake_processes`` starts everything. With a name as its argument it is one of the
fakes.
Each fake appends its events to the file $JOURNAL, one JSON object per line, in one write.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from deploy.local.__main__ import main
from deploy.local.processes import Process, Stage, product, readiness
from mirror.log import configure
from mirror.settings import Settings


def table(settings: Settings) -> list[Process]:
    """Return the product's processes, with a fake as the program of each."""
    programs = [fake(process) for process in product(settings) if not process.once]
    if "stubborn" in os.environ.get("FAKES", ""):
        programs.append(fake(Process("stubborn", (), Stage.WORK, stop_within=1)))
    return [*programs, readiness(settings)]


def fake(process: Process) -> Process:
    return replace(process, command=(sys.executable, "-m", "tests.integration.deploy.fake_processes", process.name))


def run_fake(name: str) -> None:
    """Run the fake *name* until SIGTERM.

    Then log which of the other processes still accept connections.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in every thread, so that only sigwait receives it
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["MIRROR_PORT"])), Ready) if name == "service" else None
    if server and "MIRROR_TLS_CERTIFICATE" in os.environ:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.environ["MIRROR_TLS_CERTIFICATE"], os.environ["MIRROR_TLS_KEY"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    if server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    journal("started", name)
    os.write(1, f"{name} says hello\n".encode())
    if name == "service" and "logs" in os.environ.get("FAKES", ""):
        log_requests()
    signal.sigwait({signal.SIGUSR1 if name == "stubborn" else signal.SIGTERM})
    journal("stopping", name)
    if server:
        server.shutdown()
        server.server_close()


def log_requests() -> None:
    """Log requests as the service does, also those that a person is not shown."""
    configure("service")
    for path in ("/livez", "/readyz", "/metrics", "/v1/jobs"):
        structlog.get_logger("service.http.access_log").info("request", method="GET", path=path, status=200)


def journal(event: str, name: str) -> None:
    """Append an event of the fake *name* to the journal."""
    line = {"event": event, "name": name, "pid": os.getpid(), "accepting": accepting(), "env": dict(os.environ)}
    with Path(os.environ["JOURNAL"]).open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def accepting() -> list[str]:
    """Return which of the other processes accept connections."""
    places = {
        "api": ("127.0.0.1", int(os.environ["MIRROR_PORT"])),
        "s3": address(os.environ.get("MIRROR_S3_ENDPOINT", "")),
        "redis": address(os.environ.get("MIRROR_REDIS_URL", "")),
    }
    return [name for name, place in places.items() if place and accepts(place)]


def address(url: str) -> tuple[str, int] | None:
    parts = urlsplit(url)
    return (parts.hostname, parts.port) if parts.hostname and parts.port else None


def accepts(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=2).close()
    except OSError:
        return False
    return True


class Ready(BaseHTTPRequestHandler):
    """A service that is ready from the start."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Do not log."""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_fake(sys.argv[1])
    else:
        sys.exit(main(table))
