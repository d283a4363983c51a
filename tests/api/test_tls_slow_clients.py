"""Slow clients over TLS: every wait has a deadline, and others are served."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final

import pytest

from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.api.slow_clients import Crowd, is_dropped, read_slowly
from tests.api.test_live import LARGE
from tests.api.test_slow_clients import MIB, SECONDS, ImpatientService, many_open_files, resident
from tests.api.tls_service import ADDRESS, TlsService, get

__all__ = ["many_open_files"]

SILENT: Final = 1000
_BYTES_OF_A_SILENT_CLIENT: Final = 32 * 1024


class ImpatientTlsService(TlsService, ImpatientService):
    """With deadlines that a test can wait for."""


@pytest.fixture(scope="module")
def tls_service_class() -> type[TlsService]:
    return ImpatientTlsService


@pytest.fixture
def impatient(tls: TlsService) -> TlsService:
    """A service with short deadlines, which all tests share."""
    return tls


def test_a_thousand_clients_that_never_shake_hands_cost_little_and_stop_nobody(own_tls: TlsService) -> None:
    with own_tls.client() as client:
        assert client.request("GET", f"{own_tls.url}/livez").status == 200
        before = resident(own_tls)
        with Crowd("silent", own_tls.port, SILENT) as crowd:
            for _ in range(20):
                assert client.request("GET", f"{own_tls.url}/livez", headers={"Connection": "close"}).status == 200
            assert crowd.alive == SILENT
            assert resident(own_tls) - before < SILENT * _BYTES_OF_A_SILENT_CLIENT
            assert threads_of(own_tls) < SILENT / 10


def threads_of(service: LiveService) -> int:
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    statuses = [Path(f"/proc/{child}/status").read_text() for child in children]
    return sum(int(found[1]) for status in statuses if (found := re.search(r"^Threads:\t(\d+)$", status, re.MULTILINE)))


@pytest.mark.parametrize("beginning", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "a byte", "a part"])
def test_the_handshake_has_a_deadline_also_when_a_byte_comes_now_and_then(
    impatient: TlsService, beginning: bytes
) -> None:
    with impatient.connect_plain(beginning) as client:
        assert is_dropped(client, b"\x00" if beginning else b"")


def test_a_body_has_a_deadline_also_when_one_record_drips(impatient: TlsService) -> None:
    """A wait for the rest of a record must not begin again with each of its bytes."""
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {impatient.token}\r\nContent-Length: 9000\r\n\r\n"
    )
    to_us, from_us = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(impatient.secret.authority))
    tls = context.wrap_bio(to_us, from_us, server_hostname=ADDRESS)
    with impatient.connect_plain() as client:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(from_us.read())
                to_us.write(client.recv(65536))
        tls.write(head.encode())
        client.sendall(from_us.read())
        tls.write(b"x" * 9000)
        client.settimeout(0.2)
        answer = b""
        for byte in from_us.read():
            client.sendall(bytes([byte]))
            try:
                to_us.write(client.recv(65536))
                answer = tls.read()
                break
            except (TimeoutError, ssl.SSLWantReadError):
                continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_client_that_takes_nothing_is_dropped(impatient: TlsService, live_mirror: SeededCatalog) -> None:
    path = f"/v2/live/none/blobs/{live_mirror.link_blob('live/none', LARGE)}"
    with impatient.connect(get(path), window=4096):
        line = impatient.logged(path=path)
    assert 0 < line["bytes"] < len(LARGE)
    assert impatient.troubles() == []


def test_a_client_that_takes_a_little_at_a_time_is_not(impatient: TlsService, live_mirror: SeededCatalog) -> None:
    """Three times as long as a client may take nothing, and every byte arrives."""
    content = LARGE[: 8 * MIB]
    path = f"/v2/live/little/blobs/{live_mirror.link_blob('live/little', content)}"
    with impatient.connect(get(path), window=4096) as client:
        assert read_slowly(client, 3 * SECONDS) == content
