"""What the tests of the HTTP stack share."""

from __future__ import annotations

import ipaddress

import pytest

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the deadline of every request end after 0.3 s, before any other timeout."""
    monkeypatch.setattr("mirror.http.deadlines.REQUEST_SECONDS", 0.3)
