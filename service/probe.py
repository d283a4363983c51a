"""Ask a running service for its health without importing its libraries: for health checks and for `make run`."""

from __future__ import annotations

import http.client
import ssl
from typing import Final

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on, and the address to connect to for each."""


def is_ok(host: str, port: int, path: str, *, timeout: float, tls: bool = False) -> bool:
    """Return whether *path* of the service responds with 200 within *timeout* seconds. *host* is where it listens."""
    address = _EVERYWHERE.get(host, host)
    if tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address, port, timeout=timeout, context=_unverified()
        )
    else:
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _unverified() -> ssl.SSLContext:
    """Return a context that accepts any certificate.

    The certificate is for the public name, and the service is asked by its address. Nothing secret is sent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
