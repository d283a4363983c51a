"""The client under a shared admission: what it asks of a registry, together with other processes."""

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
from mirror.throttling.shared_throttle import SharedThrottle
from mirror.wiring import build_throttle
from tests.conftest import MakeSettings
from tests.e2e.processes import ROOT, eventually
from tests.fakes import faults
from tests.fakes.docker_hub import REFUSAL, PullLimit
from tests.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.images import TestImage
from tests.servers import ValkeyServer
from tests.unit.registry.conftest import LOGIN, LOOPBACK, REPOSITORY

SLOTS = 3


@pytest.fixture
def admission(redis: Redis, registry: FakeRegistry) -> Iterator[SharedThrottle]:
    shared = build_throttle(redis, {registry.host: SLOTS})
    yield shared
    shared.close()


@pytest.fixture
def client(
    settings: MakeSettings, registry: FakeRegistry, admission: SharedThrottle, config: Path
) -> Iterator[RegistryClient]:
    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}), docker_config=config)
    client = RegistryClient.from_settings(place, admission=admission, sleep=lambda _: None)
    yield client
    client.close()


@pytest.fixture
def blob(app: TestImage) -> Descriptor:
    digest, content = max(app.blobs.items(), key=lambda item: len(item[1]))
    return Descriptor("application/octet-stream", digest, len(content))


def limit(redis: Redis, registry: FakeRegistry, action: str = "manifests") -> float:
    return float(redis.call("HGET", keys.limiter("limit", registry.host, action), "limit"))


class Crowd:
    """Counts the requests that are with a registry at once; they stay until they are let go."""

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


def test_two_processes_together_never_ask_for_more_at_once_than_is_set(registry: FakeRegistry, redis_url: str) -> None:
    crowd = Crowd()
    registry.script(crowd)
    command = [sys.executable, "-m", "tests.unit.registry.asking", registry.host, str(SLOTS), "8"]
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


def test_a_task_that_is_called_away_does_not_wait_for_a_slot(
    client: RegistryClient,
    admission: SharedThrottle,
    registry: FakeRegistry,
    settings: MakeSettings,
    reference: Reference,
    blob: Descriptor,
) -> None:
    class Canceled(Exception):
        pass

    def called_away(_: float) -> None:
        raise Canceled

    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}))
    stopping = RegistryClient.from_settings(place, admission=admission, sleep=called_away)
    streams = [client.open_blob(reference, blob) for _ in range(SLOTS)]
    with pytest.raises(Canceled):
        stopping.open_blob(reference, blob)
    for stream in streams:
        stream.close()
    stopping.open_blob(reference, blob).close()
    stopping.close()


@pytest.mark.parametrize("change", [faults.status(429, Retry_After="60"), faults.status(429), faults.status(503)])
def test_an_overloaded_registry_is_asked_for_half_as_much(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference, change: faults.Change
) -> None:
    registry.script(faults.faulty(change))
    with pytest.raises((RateLimited, SourceFailed)):
        client.get_manifest(reference)
    assert limit(redis, registry) == SLOTS / 2


@pytest.mark.parametrize("change", [faults.status(500), faults.status(404)])
def test_other_failures_are_no_overload(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference, change: faults.Change
) -> None:
    registry.script(faults.faulty(change))
    with pytest.raises((ManifestUnknown, SourceFailed)):
        client.get_manifest(reference)
    assert limit(redis, registry) == SLOTS


def test_a_429_that_names_no_time_is_backed_off_from_and_one_that_does_is_obeyed(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(429, body=b"Too Many Requests")))
    with pytest.raises(RateLimited) as caught:
        client.get_manifest(reference)
    assert 1 <= caught.value.retry_after <= 10
    registry.script(faults.faulty(faults.status(429, Retry_After="1000")))
    with pytest.raises(RateLimited) as caught:
        client.get_manifest(reference)
    assert caught.value.retry_after == 1000
    assert len(registry.log()) == 2


def test_the_pull_limits_refusal_is_told_from_the_one_against_abuse(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(429, body=REFUSAL, Retry_After="77"), method="GET"))
    with pytest.raises(QuotaExhausted) as caught:
        client.get_manifest(reference)
    assert caught.value.retry_after == 77
    assert limit(redis, registry) == SLOTS


def test_a_login_has_a_ledger_of_its_own_and_no_user_or_address_is_kept(
    client: RegistryClient, registry: FakeRegistry, redis: Redis, reference: Reference
) -> None:
    registry.tokens = Tokens(login=LOGIN)
    registry.script(PullLimit(10, window=60))
    client.get_manifest(reference)
    ledgers = [key for key in redis.call("KEYS", "mirror:*") if ":ledger:" in key]
    assert len(ledgers) == 1
    assert not any(secret in ledgers[0] for secret in (*LOGIN, "192.0.2.7", "anonymous"))


def test_a_process_that_heard_nothing_yet_asks_with_a_head_before_it_spends(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, redis: Redis
) -> None:
    """A reference by digest is read without a HEAD otherwise."""
    hub = PullLimit(1, window=60)
    registry.script(hub)
    hub(Request("api", "GET", "/v2/x/manifests/1", {}, {}), Reply())
    redis.call("SET", keys.quota("limited", registry.host), 1)
    with pytest.raises(QuotaExhausted):
        client.get_manifest(Reference.parse(f"{registry.host}/{REPOSITORY}@{app.digest}"))
    assert (hub.refused, [request.method for request in registry.log("api")]) == (0, ["HEAD"])


def test_what_was_reserved_and_not_read_is_given_back(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(PullLimit(4, window=60))
    with client.reading(reference) as manifests:
        manifests.get(reference)
        manifests.expect(3)
        with client.reading(reference) as others, pytest.raises(QuotaExhausted):
            others.get(reference)
    client.get_manifest(reference)


def test_a_registry_that_is_known_to_work_is_not_asked_while_it_is_down(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    client.head_manifest(reference)
    registry.script(faults.faulty(faults.status(502)))
    for _ in range(5):
        with pytest.raises(RegistryFailing, match="502"):
            client.get_manifest(reference)
    asked = len(registry.log())
    with pytest.raises(
        RegistryFailing, match=f"answered 502 for the manifest of {reference}.*several failures"
    ) as caught:
        client.get_manifest(reference)
    assert len(registry.log()) == asked
    assert caught.value.waits_for == "registry_failing"
    assert 10 < caught.value.retry_after <= 18


def test_a_registry_that_never_answered_is_nobodys_to_wait_for(client: RegistryClient, registry: FakeRegistry) -> None:
    nowhere = Reference.parse(f"{registry.host.replace('127.0.0.1', '127.0.0.2')}/team/app:1")
    for _ in range(7):
        with pytest.raises(SourceUnreachable) as caught:
            client.get_manifest(nowhere)
        assert caught.value.waits_for is None


@pytest.mark.parametrize("status", [403, 404])
def test_a_registry_that_refuses_is_not_down(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int, redis: Redis
) -> None:
    registry.script(faults.faulty(faults.status(status)))
    for _ in range(10):
        with pytest.raises(Exception, match=REPOSITORY):
            client.get_manifest(reference)
    assert not redis.call("EXISTS", keys.breaker(registry.host))


@pytest.mark.parametrize("before", [True, False])
def test_with_redis_gone_images_are_read_all_the_same(
    registry: FakeRegistry,
    reference: Reference,
    app: TestImage,
    blob: Descriptor,
    settings: MakeSettings,
    tmp_path: Path,
    *,
    before: bool,
) -> None:
    """Whether it went *before* the first request or after it."""
    registry.script(PullLimit(100, window=60))
    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}))
    with ValkeyServer(tmp_path) as server:
        redis = Redis.connect(server.url, retries=0)
        admission = build_throttle(redis, {})
        client = RegistryClient.from_settings(place, admission=admission, sleep=lambda _: None)
        if not before:
            client.get_manifest(reference)
    assert client.head_manifest(reference) == app.digest
    assert client.get_manifest(reference).body == app.body
    client.open_blob(reference, blob).close()
    registry.script(faults.faulty(faults.status(503)))
    with pytest.raises(SourceFailed, match="503"):
        client.get_manifest(reference)
    client.close()
    admission.close()
    redis.close()
