"""A failed HEAD is replaced by a GET, and a useless HEAD is not sent again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mirror.errors import ManifestUnknown, RateLimited, Unauthorized
from mirror.oci.reference import Reference
from mirror.redis.client import Redis
from mirror.registry.client import RegistryClient
from mirror.wiring import build_throttle
from tests.conftest import MakeSettings
from tests.integration.registry.conftest import LOOPBACK, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.images import TestImage

USELESS = {
    "400": faults.status(400),
    "403": faults.status(403),
    "404": faults.status(404),
    "405": faults.status(405),
    "418": faults.status(418),
    "500": faults.status(500),
    "501": faults.status(501),
    "503": faults.status(503),
    "503 with a time": faults.status(503, Retry_After="30"),
    "204": faults.status(204),
    "304": faults.status(304),
    "a redirect without end": faults.status(307, Location="/v2/team/app/manifests/1"),
    "a redirect to no URL": faults.status(307, Location="ftp://example.com/x"),
    "a redirect to where we may not go": faults.status(307, Location="https://10.0.0.1/x"),
    "no digest": faults.header("Docker-Content-Digest", None),
    "a digest that is none": faults.header("Docker-Content-Digest", "sha256:short"),
    "no answer": faults.hung_up(),
}


def asked(registry: FakeRegistry, since: int = 0) -> list[str]:
    return [request.method for request in registry.log()[since:]]


def read(client: RegistryClient, reference: Reference) -> bytes:
    """Send a HEAD, and a GET if that fails, as the resolver does."""
    digest = client.head_manifest(reference)
    return get_manifest(client, replace(reference, digest=digest) if digest else reference).body


@pytest.mark.parametrize("change", USELESS.values(), ids=USELESS.keys())
def test_a_useless_head_is_sent_once_and_not_again_after_a_get_worked(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    app: TestImage,
    change: faults.Change,
    waits: list[float],
) -> None:
    registry.script(faults.faulty(change, method="HEAD"))
    assert read(client, reference) == app.body
    redirects = asked(registry).count("HEAD") - 1
    assert (asked(registry)[-1], redirects <= 5, waits) == ("GET", True, [])
    before = len(registry.log())
    assert [read(client, reference), read(client, reference)] == [app.body] * 2
    assert asked(registry, before) == ["GET", "GET"]


def test_a_body_after_a_head_does_not_disturb_the_next_response(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    """The rest of that body could be read as the start of the next response."""
    registry.script(lambda q, _: Reply(404, {}, b"not found\n" * 9, also_to_head=True) if q.method == "HEAD" else None)
    assert [read(client, reference) for _ in range(3)] == [app.body] * 3


def test_a_well_behaved_registry_is_sent_a_head_every_time(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    for _ in range(3):
        assert client.head_manifest(reference) == app.digest
    assert asked(registry) == ["HEAD"] * 3


def test_a_tag_that_is_missing_says_nothing_about_heads(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    missing = replace(reference, tag="none")
    for _ in range(3):
        with pytest.raises(ManifestUnknown):
            read(client, missing)
    assert asked(registry) == ["HEAD", "GET"] * 3
    assert client.head_manifest(reference) == app.digest


def test_another_registry_is_still_sent_heads(
    client_of: object, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    with FakeRegistry() as other:
        other.put(app, "team/app", "1")
        assert callable(client_of)
        client: RegistryClient = client_of(registry, other)
        registry.script(faults.faulty(faults.status(405), method="HEAD"))
        read(client, reference)
        assert client.head_manifest(replace(reference, registry=other.host)) == app.digest


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (429, RateLimited)])
def test_a_head_that_demands_a_login_or_a_wait_raises(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int, error: type[Exception]
) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="' + registry.token_url + '"', "Retry-After": "60"}
    registry.script(lambda q, _: Reply(status, challenge) if q.method == "HEAD" else None)
    registry.script(lambda q, _: Reply(401) if q.path == "/token" else None)
    with pytest.raises(error):
        client.head_manifest(reference)
    assert "GET" not in [request.method for request in registry.log(path="/manifests/")]


def test_a_head_is_sent_again_after_a_short_retry_after(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, waits: list[float]
) -> None:
    registry.script(faults.faulty(faults.status(429, Retry_After="3"), times=1))
    assert client.head_manifest(reference) == app.digest
    assert (asked(registry), waits) == (["HEAD", "HEAD"], [3])


def test_with_a_pull_limit_a_failed_head_is_sent_again_next_time(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    """It costs no quota, and a GET would."""
    registry.script(faults.faulty(faults.status(502), method="HEAD", times=1))
    registry.script(PullLimit(100, window=600))
    read(client, reference)
    before = len(registry.log())
    assert client.head_manifest(reference)
    assert asked(registry, before) == ["HEAD"]


@pytest.fixture
def workers(redis: Redis, registry: FakeRegistry, settings: MakeSettings) -> Iterator[list[RegistryClient]]:
    """Clients of two processes with a shared throttle."""
    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}))
    throttles = [build_throttle(redis, {}) for _ in range(2)]
    made = [RegistryClient.from_settings(place, throttle=each, sleep=lambda _: None) for each in throttles]
    yield made
    for client, throttle in zip(made, throttles, strict=True):
        client.close()
        throttle.limiter.close()


def test_all_workers_skip_heads_that_one_found_useless(
    workers: list[RegistryClient], registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(faults.faulty(faults.status(404), method="HEAD"))
    assert [read(client, reference) for client in workers] == [app.body] * 2
    assert asked(registry) == ["HEAD", "GET", "GET"]


def test_failing_heads_neither_open_the_breaker_nor_occupy_its_probe(
    workers: list[RegistryClient], registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    """Otherwise a registry whose HEADs always fail would stay marked as down."""
    failing = faults.faulty(faults.status(500))
    registry.script(failing)
    for client in itertools.islice(itertools.cycle(workers), 6):
        assert client.head_manifest(reference) is None
    registry.scripts.remove(failing)
    registry.script(lambda request, _: Reply(500) if request.method == "HEAD" else None)
    assert read(workers[0], reference) == app.body


def test_a_hinted_digest_is_read_once_and_failures_are_not_raised(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, waits: list[float]
) -> None:
    hinted = replace(reference, digest=app.digest)
    with client.reading(hinted) as manifests:
        found = manifests.get_hinted(hinted)
        assert found is not None
        assert found.body == app.body
        for change in (faults.status(500), faults.status(404), faults.wrong_byte(3), faults.reset_after(5)):
            before = len(registry.log())
            registry.script(faults.faulty(change, times=1))
            assert manifests.get_hinted(hinted) is None
            assert len(registry.log()) == before + 1
    assert waits == []


def test_a_registry_that_was_down_is_probed_by_a_get_if_heads_are_useless(
    workers: list[RegistryClient], registry: FakeRegistry, reference: Reference, app: TestImage, redis: Redis
) -> None:
    client = workers[0]
    read(client, reference)
    down = faults.faulty(faults.status(500))
    registry.script(down)
    for _ in range(5):
        with pytest.raises(Exception, match="500"):
            get_manifest(client, reference)
    registry.scripts.remove(down)

    def only_gets(request: Request, _: Reply) -> Reply | None:
        return Reply(500) if request.method == "HEAD" else None

    registry.script(only_gets)
    redis.call("HSET", f"mirror:breaker:{registry.host}", "open_until", 1)  # its wait is over
    assert read(client, reference) == app.body
