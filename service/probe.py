"""Asking a running service how it is, without any of its libraries: for health checks and for whoever waits for it."""

from __future__ import annotations

import http.client
from typing import Final

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that are listened on, and where to connect to them."""


def is_ok(host: str, port: int, path: str, *, timeout: float) -> bool:
    """Whether *path* answers 200 to who asks where the service listens; *timeout* in seconds."""
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
