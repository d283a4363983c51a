"""Which requests are retried, after how long, and which are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mirror.errors import MirrorError, RateLimited, SourceFailed, SourceUnreachable
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.registry.response_errors import (
    DEFAULT_TOKEN,
    DEFAULT_WAIT,
    LONGEST_TOKEN,
    LONGEST_WAIT,
    asked_wait,
    token_seconds,
)
from mirror.registry.retry import ATTEMPTS, LONGEST_PAUSE
from tests.conftest import MakeSettings
from tests.integration.registry.conftest import LOOPBACK, MakeClient, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry
from tests.support.fakes.throttle import UNTHROTTLED
from tests.support.images import TestImage


@pytest.mark.parametrize("change", [faults.status(500), faults.status(503), faults.reset_after(0), faults.cut_after(3)])
def test_a_failure_that_may_pass_is_tried_four_times(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    app: TestImage,
    change: faults.Change,
    waits: list[float],
) -> None:
    registry.script(faults.faulty(change, times=ATTEMPTS - 1))
    assert get_manifest(client, reference).body == app.body
    assert len(registry.log()) == ATTEMPTS == len(waits) + 1
    assert all(0 <= wait <= LONGEST_PAUSE for wait in waits)


def test_after_the_last_attempt_the_failure_is_raised(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(503)))
    with pytest.raises(SourceFailed, match="503"):
        get_manifest(client, reference)
    assert len(registry.log()) == ATTEMPTS


def test_a_late_failure_is_not_retried(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow retries would occupy their task's slot for long."""
    monkeypatch.setattr("mirror.registry.retry.RETRY_SECONDS", 0.0)
    registry.script(faults.faulty(faults.status(503)))
    with pytest.raises(SourceFailed, match="503"):
        get_manifest(client, reference)
    assert len(registry.log()) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 405, 451])
def test_a_permanent_failure_is_tried_once(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, waits: list[float], status: int
) -> None:
    registry.script(faults.faulty(faults.status(status)))
    with pytest.raises(MirrorError):
        get_manifest(client, reference)
    assert (len(registry.log()), waits) == (1, [])


def test_the_waits_have_full_jitter(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, waits: list[float]
) -> None:
    registry.script(faults.faulty(faults.status(503)))
    for _ in range(10):
        with pytest.raises(SourceFailed):
            get_manifest(client, reference)
    assert len(set(waits)) == len(waits)


def test_a_short_retry_after_is_obeyed_exactly_once(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, waits: list[float]
) -> None:
    """Retrying a 429 again and again amplifies an outage."""
    registry.script(faults.faulty(faults.status(429, Retry_After="5"), times=3))
    with pytest.raises(RateLimited):
        get_manifest(client, reference)
    assert (len(registry.log()), waits) == (2, [5])
    assert get_manifest(client, reference).body == app.body
    assert waits == [5, 5]


@pytest.mark.parametrize("header", ["6", "3600", None])
def test_a_longer_wait_is_left_to_the_caller(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, waits: list[float], header: str | None
) -> None:
    change = faults.status(429) if header is None else faults.status(429, Retry_After=header)
    registry.script(faults.faulty(change))
    with pytest.raises(RateLimited) as caught:
        client.head_manifest(reference)
    assert caught.value.retry_after == float(header or DEFAULT_WAIT)
    assert caught.value.registry == registry.host
    assert (len(registry.log()), waits) == (1, [])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("99999999999999999999999999", LONGEST_WAIT),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Wed, 99 Nov 2026 99:99:99 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", LONGEST_WAIT),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(header: str, seconds: float | None) -> None:
    assert asked_wait({"Retry-After": header}) == seconds


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (300, 300.0),
        (0.5, 0.5),
        (10**9, LONGEST_TOKEN),
        (10**400, LONGEST_TOKEN),
        (1e300, LONGEST_TOKEN),
        (math.inf, LONGEST_TOKEN),
        (math.nan, DEFAULT_TOKEN),
        (-1, DEFAULT_TOKEN),
        (True, DEFAULT_TOKEN),
        ("300", 300.0),
        ("soon", DEFAULT_TOKEN),
        ("9" * 400, LONGEST_TOKEN),
        (None, DEFAULT_TOKEN),
        ([], DEFAULT_TOKEN),
    ],
)
def test_a_token_is_used_for_no_longer_than_half_a_day(expires_in: object, seconds: float) -> None:
    assert token_seconds(expires_in) == seconds


def test_a_retry_after_date_becomes_seconds() -> None:
    headers: Mapping[str, str] = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)}
    assert 0 < (asked_wait(headers) or 0) <= 3600


def test_a_registry_that_is_down_is_unreachable(
    client_of: MakeClient, registry: FakeRegistry, waits: list[float]
) -> None:
    """Nothing listens on 127.0.0.2 at the fake's port."""
    nowhere = registry.host.replace("127.0.0.1", "127.0.0.2")
    client = client_of(insecure_registries=frozenset({nowhere}))
    with pytest.raises(SourceUnreachable, match="refused"):
        get_manifest(client, Reference.parse(f"{nowhere}/team/app:1"))
    assert len(waits) == ATTEMPTS - 1


def test_the_sleep_function_can_end_a_wait(
    settings: MakeSettings, registry: FakeRegistry, reference: Reference
) -> None:
    class Stopped(Exception):
        pass

    def sleep(_: float) -> None:
        raise Stopped

    registry.script(faults.faulty(faults.status(503)))
    place = settings(allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}))
    client = RegistryClient.from_settings(place, throttle=UNTHROTTLED, sleep=sleep)
    with pytest.raises(Stopped):
        get_manifest(client, reference)
    assert len(registry.log()) == 1
    client.close()


def test_a_retry_is_logged_without_headers_or_query(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.script(faults.faulty(faults.status(503, X_Secret="very-secret"), times=1))
    get_manifest(client_of(registry), reference)
    printed = capsys.readouterr().out
    assert str(reference) in printed
    assert "very-secret" not in printed
