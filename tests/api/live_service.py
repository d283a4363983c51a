"""``python -m service`` as a child process, for what only a real server shows."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import urllib3

from tests.support.servers import S3Server, Server, ValkeyServer

WITHIN: Final = 20.0
"""Seconds that a client waits for the service."""
_LOGGED_WITHIN: Final = 10.0


class LiveService(Server):
    """The service over the given stores, with a token of its own."""

    name = "service"

    def __init__(self, directory: Path, valkey: ValkeyServer, s3: S3Server, prefix: str, **settings: str) -> None:
        super().__init__(directory)
        self.token = secrets.token_hex(16)
        self._stores = {**s3.settings_env(prefix), "MIRROR_REDIS_URL": valkey.url}
        self._settings = settings
        self._begun_at = 0

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "service"]

    def environment(self) -> Mapping[str, str]:
        inherited = {name: "" for name in os.environ if name.startswith("MIRROR_")}
        return {
            **inherited,
            **self._stores,
            "MIRROR_PORT": str(self.port),
            "MIRROR_ADMIN_TOKEN": self.token,
            "MIRROR_SERVE_REDIRECT": "false",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self._settings,
        }

    def answers(self) -> bool:
        """A stranger would refuse our token."""
        with urllib3.PoolManager(retries=False, timeout=5) as http:
            try:
                return http.request("GET", f"{self.url}/v1/jobs", headers=self.headers).status in (200, 503)
            except urllib3.exceptions.HTTPError:
                return False

    def connect_plain(self, beginning: bytes = b"", *, window: int | None = None) -> socket.socket:
        """Return a connection on which *beginning* was sent. *window* is its receive buffer in bytes."""
        client = socket.socket()
        if window:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        client.settimeout(WITHIN)
        client.connect(("127.0.0.1", self.port))
        client.sendall(beginning)
        return client

    def begin_test(self) -> None:
        """Leave what was logged for earlier tests out of `text` and `lines`."""
        self._begun_at = self.log.stat().st_size

    def text(self) -> str:
        """Return everything that was logged since `begin_test`."""
        return self.log.read_bytes()[self._begun_at :].decode()

    def lines(self) -> list[dict[str, Any]]:
        """Return every log line since `begin_test`, each one JSON object."""
        return [json.loads(line) for line in self.text().splitlines()]

    def logged(self, **fields: object) -> dict[str, Any]:
        """The first line with these fields, waited for: it is written after the answer's last byte."""
        deadline = time.monotonic() + _LOGGED_WITHIN
        while time.monotonic() < deadline:
            for line in self.lines():
                if fields.items() <= line.items():
                    return line
        raise AssertionError(f"no line with {fields} in {self.log.read_text()}")
