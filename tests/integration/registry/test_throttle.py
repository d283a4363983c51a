"""The client under a throttle that it shares with other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import (
    ManifestUnknown,
    QuotaExhausted,
    RateLimited,
    RegistryBusy,
    RegistryFailing,
    SourceFailed,
    SourceUnreachable,
)
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.registry.client import RegistryClient
from mirror.registry.throttle import Throttle
from mirror.wiring import build_throttle
from tests.conftest import MakeSettings
from tests.e2e.processes import ROOT, eventually
from tests.integration.registry.conftest import LOGIN, LOOPBACK, REPOSITORY, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import REFUSAL, PullLimit
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.images import TestImage
from tests.support.servers import ValkeyServer

SLOTS = 3


@pytest.fixture
def throttle(redis: Redis, registry: FakeRegistry) -> Iterator[Throttle]:
    shared = build_throttle(redis, {registry.host: SLOTS})
    yield shared
    shared.limiter.close()


@pytest.fixture
def client(
    settings: MakeSettings, registry: FakeRegistry, throttle: Throttle, config: Path
) -> Iterator[RegistryClient]:
    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}), docker_config=config)
    client = RegistryClient.from_settings(place, throttle=throttle, sleep=lambda _: None)
    yield client
    client.close()


@pytest.fixture
def blob(app: TestImage) -> Descriptor:
    digest, content = max(app.blobs.items(), key=lambda item: len(item[1]))
    return Descriptor("application/octet-stream", digest, len(content))


def limit(redis: Redis, registry: FakeRegistry, action: str = "manifests") -> float:
    return float(redis.call("HGET", keys.limiter("limit", registry.host, action), "limit"))


class RequestCounter:
    """Counts the requests at a registry at once. They stay until they are released."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, _request: Request, _reply: Reply) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.let_go.wait(60)
        with self._lock:
            self.now -= 1


def test_two_processes_together_keep_to_the_limit_of_requests(registry: FakeRegistry, redis_url: str) -> None:
    crowd = RequestCounter()
    registry.script(crowd)
    command = [sys.executable, "-m", "tests.integration.registry.client_process", registry.host, str(SLOTS), "8"]
    environment = {**os.environ, "MIRROR_REDIS_URL": redis_url}
    asking = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        eventually(lambda: crowd.now >= SLOTS, within=60, what="as many requests as are allowed")
        crowd.let_go.set()
        printed = [process.communicate(timeout=90)[0] for process in asking]
    finally:
        for process in asking:
            with process:
                process.kill()
    assert [int(line.splitlines()[-1]) for line in printed] == [80, 80]
    assert crowd.most == SLOTS


def test_a_blob_holds_its_slot_until_its_last_byte(
    client: RegistryClient, reference: Reference, blob: Descriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.throttling.semaphore.STUCK_SECONDS", 0.0)
    streams = [client.open_blob(reference, blob) for _ in range(SLOTS)]
    with pytest.raises(RegistryBusy):
        client.open_blob(reference, blob)
    client.head_manifest(reference)
    streams[0].readinto(memoryview(bytearray(blob.size)))
    client.open_blob(reference, blob).close()
    for stream in streams:
        stream.close()
        stream.close()
    for stream in [client.open_blob(reference, blob) for _ in range(SLOTS)]:
        stream.close()


def test_a_canceled_task_does_not_wait_for_a_slot(
    client: RegistryClient,
    throttle: Throttle,
    registry: FakeRegistry,
    settings: MakeSettings,
    reference: Reference,
    blob: Descriptor,
) -> None:
    class Canceled(Exception):
        pass

    def cancel(_: float) -> None:
        raise Canceled

    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}))
    stopping = RegistryClient.from_settings(place, throttle=throttle, sleep=cancel)
    streams = [client.open_blob(reference, blob) for _ in range(SLOTS)]
    with pytest.raises(Canceled):
        stopping.open_blob(reference, blob)
    for stream in streams:
        stream.close()
    stopping.open_blob(reference, blob).close()
    stopping.close()


@pytest.mark.parametrize("change", [faults.status(429, Retry_After="60"), faults.status(429), faults.status(503)])
def test_an_overloaded_registry_is_sent_half_as_many_requests(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference, change: faults.Change
) -> None:
    registry.script(faults.faulty(change))
    with pytest.raises((RateLimited, SourceFailed)):
        get_manifest(client, reference)
    assert limit(redis, registry) == SLOTS / 2


@pytest.mark.parametrize("change", [faults.status(500), faults.status(404)])
def test_other_failures_do_not_count_as_overload(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference, change: faults.Change
) -> None:
    registry.script(faults.faulty(change))
    with pytest.raises((ManifestUnknown, SourceFailed)):
        get_manifest(client, reference)
    assert limit(redis, registry) == SLOTS


def test_a_429_without_a_time_backs_off_and_one_with_a_time_is_obeyed(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(429, body=b"Too Many Requests")))
    with pytest.raises(RateLimited) as caught:
        get_manifest(client, reference)
    assert 1 <= caught.value.retry_after <= 10
    registry.script(faults.faulty(faults.status(429, Retry_After="1000")))
    with pytest.raises(RateLimited) as caught:
        get_manifest(client, reference)
    assert caught.value.retry_after == 1000
    assert len(registry.log()) == 2


def test_the_429_of_the_pull_limit_is_distinguished_from_the_one_against_abuse(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(429, body=REFUSAL, Retry_After="77"), method="GET"))
    with pytest.raises(QuotaExhausted) as caught:
        get_manifest(client, reference)
    assert caught.value.retry_after == 77
    assert limit(redis, registry) == SLOTS


def test_a_login_has_a_ledger_of_its_own_and_no_user_or_address_is_kept(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference
) -> None:
    registry.tokens = Tokens(login=LOGIN)
    registry.script(PullLimit(10, window=60))
    get_manifest(client, reference)
    ledgers = [key for key in redis.call("KEYS", "mirror:*") if ":ledger:" in key]
    assert len(ledgers) == 1
    assert not any(secret in ledgers[0] for secret in (*LOGIN, "192.0.2.7", "anonymous"))


def test_a_process_that_knows_no_limit_sends_a_head_before_it_spends_quota(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, redis: Redis
) -> None:
    """Without a limit, a reference by digest is read without a HEAD."""
    hub = PullLimit(1, window=60)
    registry.script(hub)
    hub(Request("api", "GET", "/v2/x/manifests/1", {}, {}), Reply())
    redis.call("SET", keys.quota("limited", registry.host), 1)
    with pytest.raises(QuotaExhausted):
        get_manifest(client, Reference.parse(f"{registry.host}/{REPOSITORY}@{app.digest}"))
    assert (hub.refused, [request.method for request in registry.log("api")]) == (0, ["HEAD"])


def test_unused_quota_is_given_back(client: RegistryClient, registry: FakeRegistry, reference: Reference) -> None:
    registry.script(PullLimit(4, window=60))
    with client.reading(reference) as manifests:
        manifests.get(reference)
        manifests.expect(3)
        with client.reading(reference) as others, pytest.raises(QuotaExhausted):
            others.get(reference)
    get_manifest(client, reference)


def test_a_registry_that_is_known_to_work_is_not_asked_while_it_is_down(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    client.head_manifest(reference)
    registry.script(faults.faulty(faults.status(502)))
    for _ in range(5):
        with pytest.raises(RegistryFailing, match="502"):
            get_manifest(client, reference)
    asked = len(registry.log())
    with pytest.raises(
        RegistryFailing, match=f"answered 502 for the manifest of {reference}.*several failures"
    ) as caught:
        get_manifest(client, reference)
    assert len(registry.log()) == asked
    assert caught.value.waits_for == "registry_failing"
    assert 10 < caught.value.retry_after <= 18


def test_a_registry_that_never_served_is_not_waited_for(client: RegistryClient, registry: FakeRegistry) -> None:
    nowhere = Reference.parse(f"{registry.host.replace('127.0.0.1', '127.0.0.2')}/team/app:1")
    for _ in range(7):
        with pytest.raises(SourceUnreachable) as caught:
            get_manifest(client, nowhere)
        assert caught.value.waits_for is None


@pytest.mark.parametrize("status", [403, 404])
def test_a_registry_that_refuses_is_not_down(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int, redis: Redis
) -> None:
    registry.script(faults.faulty(faults.status(status)))
    for _ in range(10):
        with pytest.raises(Exception, match=REPOSITORY):
            get_manifest(client, reference)
    assert not redis.call("EXISTS", keys.breaker(registry.host))


@pytest.mark.parametrize("before", [True, False])
def test_images_are_read_while_redis_is_away(
    registry: FakeRegistry,
    reference: Reference,
    app: TestImage,
    blob: Descriptor,
    settings: MakeSettings,
    tmp_path: Path,
    *,
    before: bool,
) -> None:
    """Redis goes away *before* the first request, or after it."""
    registry.script(PullLimit(100, window=60))
    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}))
    with ValkeyServer(tmp_path) as server:
        redis = Redis.connect(server.url, retries=0)
        throttle = build_throttle(redis, {})
        client = RegistryClient.from_settings(place, throttle=throttle, sleep=lambda _: None)
        if not before:
            get_manifest(client, reference)
    assert client.head_manifest(reference) == app.digest
    assert get_manifest(client, reference).body == app.body
    client.open_blob(reference, blob).close()
    registry.script(faults.faulty(faults.status(503)))
    with pytest.raises(SourceFailed, match="503"):
        get_manifest(client, reference)
    client.close()
    throttle.limiter.close()
    redis.close()
