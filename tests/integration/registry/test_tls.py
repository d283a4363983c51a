"""A whole pull over TLS, with token server and CDN."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.errors import SourceError, SourceFailed
from mirror.http.address_guard import AddressGuard
from mirror.http.transport import Transport
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.registry.endpoints import Endpoints
from tests.integration.registry.conftest import LOOPBACK, REPOSITORY, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.certificates import Authority, Issued
from tests.support.fakes.registry import FakeRegistry, Tokens
from tests.support.fakes.server import HttpServer, Reply
from tests.support.fakes.throttle import UNTHROTTLED
from tests.support.images import TestImage


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Authority(tmp_path).issue("127.0.0.1")


@pytest.fixture
def registry(app: TestImage, issued: Issued) -> Iterator[FakeRegistry]:
    with FakeRegistry(tokens=Tokens(), redirect_blobs=True, tls=issued.context()) as fake:
        fake.put(app, REPOSITORY, "1")
        yield fake


@pytest.fixture
def client(issued: Issued) -> Iterator[RegistryClient]:
    transport = Transport(AddressGuard(LOOPBACK), ca_certs=str(issued.authority))
    made = RegistryClient(transport, Endpoints(), lambda *_: None, throttle=UNTHROTTLED, sleep=lambda _: None)
    yield made
    made.close()


@pytest.fixture
def blob(app: TestImage) -> Descriptor:
    digest, content = max(app.blobs.items(), key=lambda item: len(item[1]))
    return Descriptor("application/octet-stream", digest, len(content))


def test_a_pull_over_tls_needs_no_setting(
    client: RegistryClient, reference: Reference, app: TestImage, blob: Descriptor
) -> None:
    assert get_manifest(client, reference).body == app.body
    with client.open_blob(reference, blob) as stream:
        buffer = memoryview(bytearray(blob.size))
        assert stream.readinto(buffer) == blob.size
        assert buffer == app.blobs[blob.digest]


def test_a_read_that_waits_is_woken_by_an_interrupt(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    """The server never continues, so only the interrupt can end the read."""
    never = threading.Event()
    registry.script(faults.faulty(faults.held_until(never, 1000), server="cdn"))
    with client.open_blob(reference, blob) as stream, ThreadPoolExecutor(1) as pool:
        assert stream.readinto(memoryview(bytearray(1000))) == 1000
        reading = pool.submit(stream.readinto, memoryview(bytearray(blob.size)))
        stream.interrupt()
        with pytest.raises(SourceError):
            reading.result()
    never.set()


def test_a_redirect_from_tls_to_plain_http_is_refused(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    with HttpServer("plain", lambda _: Reply(200)) as plain:
        registry.script(faults.faulty(faults.status(307, Location=f"http://{plain.host}/blob"), path="/blobs/"))
        with pytest.raises(SourceFailed, match="without TLS"):
            client.open_blob(reference, blob)
        assert plain.connections == 0
