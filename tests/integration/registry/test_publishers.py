"""A foreign layer at the URL of its publisher: ranges, refusals, and nothing of a login."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from mirror.errors import PlainHttpNotAllowed, SizeInvalid, SourceFailed
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.registry.client import RegistryClient
from mirror.registry.throttle import Action, Sleep, Throttle
from mirror.settings import Settings
from tests.conftest import MakeSettings
from tests.integration.registry.conftest import LOOPBACK
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.fakes.throttle import UNTHROTTLED, UnlimitedSlots

CONTENT = bytes(range(256)) * 2000
LAYER = Descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", Digest.of(CONTENT), len(CONTENT))
START, LENGTH = 200_000, 100_000


class CountedSlots(UnlimitedSlots):
    """Counts the slots that are taken, by what they are for. Each one that is given back is subtracted."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.names: set[str] = set()

    def enter(self, registry: str, action: Action, wait: Sleep) -> Callable[[bool], None]:
        self.names.add(registry)
        self.taken[registry] += 1
        return lambda _: self.taken.subtract([registry])


@pytest.fixture
def url(registry: FakeRegistry) -> str:
    """The layer at the CDN of the scripted registry, which refuses every login."""
    registry.put_blob("publisher", LAYER.digest, CONTENT)
    return f"http://{registry.cdn_host}/publisher/{LAYER.digest}"


@pytest.fixture
def slots() -> CountedSlots:
    return CountedSlots()


@pytest.fixture
def client(settings: MakeSettings, registry: FakeRegistry, slots: CountedSlots) -> Iterator[RegistryClient]:
    """A client that may speak plain HTTP to the publisher, and to nobody else."""
    chosen: Settings = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.cdn_host}))
    throttle = Throttle(UNTHROTTLED.breaker, slots, UNTHROTTLED.quota)
    made = RegistryClient.from_settings(chosen, throttle=throttle, sleep=lambda _: None)
    yield made
    made.close()


def read(client: RegistryClient, url: str, *, offset: int = 0, length: int | None = None) -> tuple[int, bytes]:
    """Return where the stream starts, and its bytes."""
    buffer, content = memoryview(bytearray(1024 * 1024)), bytearray()
    with client.open_url(url, LAYER, offset=offset, length=length) as stream:
        while count := stream.readinto(buffer):
            content += buffer[:count]
        return stream.start, bytes(content)


def ranges(registry: FakeRegistry) -> list[str | None]:
    return [request.headers.get("Range") for request in registry.log("cdn")]


def test_a_range_has_exactly_its_bytes(
    client: RegistryClient, registry: FakeRegistry, slots: CountedSlots, url: str
) -> None:
    assert read(client, url, offset=START, length=LENGTH) == (START, CONTENT[START : START + LENGTH])
    assert read(client, url) == (0, CONTENT)
    assert ranges(registry) == [f"bytes={START}-{START + LENGTH - 1}", None]
    assert (slots.names, slots.taken.total()) == ({registry.cdn_host}, 0)


def test_a_server_that_sends_another_range_is_asked_for_the_whole_layer(
    client: RegistryClient, registry: FakeRegistry, url: str
) -> None:
    def other(request: Request, reply: Reply) -> Reply | None:
        wrong = {**reply.headers, "Content-Range": f"bytes 0-{LENGTH - 1}/{len(CONTENT)}"}
        return Reply(206, wrong, CONTENT[:LENGTH]) if "Range" in request.headers else None

    registry.script(other)
    for _ in range(2):
        assert read(client, url, offset=START, length=LENGTH) == (0, CONTENT)
    assert ranges(registry) == [f"bytes={START}-{START + LENGTH - 1}", None, None]


def test_a_failure_that_may_pass_is_retried(client: RegistryClient, registry: FakeRegistry, url: str) -> None:
    registry.script(faults.faulty(faults.status(503), times=2))
    assert read(client, url) == (0, CONTENT)
    assert len(registry.log("cdn")) == 3


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (faults.status(404), SourceFailed, 1),
        (faults.status(410), SourceFailed, 1),
        (faults.status(401, WWW_Authenticate='Bearer realm="https://auth.example/token"'), SourceFailed, 1),
        (faults.status(403), SourceFailed, 1),
        (faults.too_long(), SizeInvalid, 1),
        (faults.body(b"shorter"), SizeInvalid, 1),
        (faults.status(302, Location="http://127.0.0.1:9/layer"), PlainHttpNotAllowed, 1),
        (faults.status(302, Location="/again"), SourceFailed, 6),
    ],
)
def test_a_refusal_is_an_error_and_gives_its_slot_back(
    client: RegistryClient,
    registry: FakeRegistry,
    slots: CountedSlots,
    url: str,
    fault: faults.Change,
    error: type[Exception],
    requests: int,
) -> None:
    registry.script(faults.faulty(fault))
    with pytest.raises(error):
        read(client, url)
    assert (len(registry.log("cdn")), slots.taken.total()) == (requests, 0)
    assert registry.log("token") == registry.log("api") == []


def test_a_url_without_tls_is_not_requested_unless_its_host_is_named(
    client: RegistryClient, registry: FakeRegistry, slots: CountedSlots
) -> None:
    with pytest.raises(PlainHttpNotAllowed, match="its URL is without TLS"):
        read(client, f"http://{registry.host}/v2/publisher/blobs/{LAYER.digest}")
    assert (registry.connections["api"], slots.names) == (0, set())


@pytest.mark.parametrize("odd", ["https://user:pass@host/x", "https:///x", "ftp://host/x", "https://ho st/x"])
def test_a_url_without_a_plain_host_is_an_error(client: RegistryClient, odd: str) -> None:
    with pytest.raises(SourceFailed, match="no plain host"):
        read(client, odd)
