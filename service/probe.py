"""Ask a running service for its health without importing its libraries: for health checks and for `make run`."""

from __future__ import annotations

import http.client
from typing import Final

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on, and the address to connect to for each."""


def is_ok(host: str, port: int, path: str, *, timeout: float) -> bool:
    """Return whether *path* of the service responds with 200 within *timeout* seconds. *host* is where it listens."""
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
