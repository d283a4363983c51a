"""The brake on guessing the token."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.app import create_app
from service.core import Service
from service.http.auth import BURST, SECONDS_EACH, UNGUESSABLE, FailureLimit, RequestAuthenticator, _network_of
from tests.api.conftest import TOKEN, with_settings

SHORT = "correct-horse-ba"
"""Sixteen characters that a person chose."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> FailureLimit:
    return FailureLimit(clock)


def fail(limit: FailureLimit, address: str, times: int = BURST) -> None:
    for _ in range(times):
        assert limit.wait(address) == 0
        limit.note(address)


def test_an_address_may_fail_a_few_times_and_then_waits_seconds(limit: FailureLimit, clock: Clock) -> None:
    fail(limit, "10.0.0.1")
    assert limit.wait("10.0.0.1") == SECONDS_EACH
    clock.now += SECONDS_EACH - 1
    assert limit.wait("10.0.0.1") == 1
    clock.now += 1
    fail(limit, "10.0.0.1", 1)
    assert limit.wait("10.0.0.1") == SECONDS_EACH


def test_all_failures_are_forgotten_in_time(limit: FailureLimit, clock: Clock) -> None:
    fail(limit, "10.0.0.1")
    clock.now += BURST * SECONDS_EACH
    fail(limit, "10.0.0.1")


def test_an_address_does_not_wait_for_another_ones_failures(limit: FailureLimit) -> None:
    fail(limit, "10.0.0.1")
    fail(limit, "2001:db8::1")
    assert [limit.wait(other) for other in ("10.0.0.2", "2001:db8:0:1::1", "")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2%eth1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("not an address", "not an address"),
    ],
)
def test_who_has_one_address_of_a_network_has_all(limit: FailureLimit, address: str, other: str) -> None:
    fail(limit, address)
    assert limit.wait(other) > 0


def test_a_million_addresses_take_no_more_room_than_there_is(clock: Clock) -> None:
    limit = FailureLimit(clock, most_addresses=100)
    for number in range(1000):
        limit.note(f"10.0.{number // 256}.{number % 256}")
    assert len(limit._failures) == 100
    assert _network_of("10.0.3.231") in limit._failures


def asked(
    client: FlaskClient, authorization: str, *, address: str = "192.0.2.1", path: str = "/v1/jobs"
) -> TestResponse:
    return client.get(
        path,
        headers={"Authorization": authorization, "X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"},
        environ_base={"REMOTE_ADDR": address},
    )


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def closed_pulls(service: Service) -> FlaskClient:
    return create_app(with_settings(service, anonymous_pull=False)).test_client()


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("/v1/jobs", "Bearer"),
        ("/v1/nothing", "Bearer"),
        ("/v2/", "Bearer"),
        ("/v2/", "Basic"),
        ("/v2/a/manifests/1", "Basic"),
    ],
)
def test_guesses_are_slowed_down_however_they_are_sent(service: Service, path: str, scheme: str) -> None:
    client = closed_pulls(service)
    guesses = [basic(f"guess-{n}") if scheme == "Basic" else f"Bearer guess-{n}" for n in range(BURST + 5)]
    statuses = [asked(client, guess, path=path).status_code for guess in guesses]
    assert statuses == [401] * BURST + [429] * 5
    refused = asked(client, guesses[0], path=path)
    assert 0 < int(refused.headers["Retry-After"]) <= SECONDS_EACH
    assert "WWW-Authenticate" not in refused.headers
    document = refused.get_json()
    assert (document if path.startswith("/v1") else document["errors"][0])["code"] == "TOOMANYREQUESTS"
    assert asked(client, guesses[0], path=path, address="192.0.2.2").status_code == 401


def test_a_header_of_a_proxy_does_not_choose_the_address(service: Service) -> None:
    client = create_app(service).test_client()
    for number in range(BURST):
        forwarded = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": f"203.0.113.{number}"}
        client.get("/v1/jobs", headers={"Authorization": "Bearer wrong", **forwarded})
    assert client.get("/v1/jobs", headers={"Authorization": "Bearer wrong"}).status_code == 429


def test_a_right_token_of_32_characters_passes_whatever_others_behind_its_address_do(service: Service) -> None:
    client = create_app(service).test_client()
    for _ in range(BURST + 1):
        asked(client, "Bearer wrong")
    assert asked(client, "Bearer wrong").status_code == 429
    assert asked(client, f"Bearer {TOKEN}").status_code == 200


def test_a_short_token_waits_with_the_guesses_or_it_would_be_found_among_them(
    service: Service, clock: Clock, limit: FailureLimit
) -> None:
    client = create_app(replace(service, auth=RequestAuthenticator(service.core.settings, SHORT, limit))).test_client()
    assert asked(client, f"Bearer {SHORT}").status_code == 200
    for _ in range(BURST):
        asked(client, "Bearer wrong")
    assert asked(client, f"Bearer {SHORT}").status_code == 429
    assert asked(client, f"Bearer {SHORT}", address="192.0.2.2").status_code == 200
    clock.now += SECONDS_EACH
    assert asked(client, f"Bearer {SHORT}").status_code == 200


def test_a_pull_token_that_is_sent_to_the_api_is_no_guess(service: Service) -> None:
    """A fleet with a wrong configuration must not lock out other clients that share its address."""
    token = "p" * UNGUESSABLE
    client = create_app(with_settings(service, anonymous_pull=False, pull_token=(token,))).test_client()
    assert {asked(client, f"Bearer {token}").status_code for _ in range(2 * BURST)} == {403}
    assert asked(client, "Bearer wrong").status_code == 401
    assert asked(client, basic(token), path="/v2/").status_code == 200


def test_a_short_pull_token_waits_with_the_guesses_on_every_path(service: Service) -> None:
    client = create_app(with_settings(service, anonymous_pull=False, pull_token=(SHORT,))).test_client()
    assert asked(client, basic(SHORT), path="/v2/").status_code == 200
    assert asked(client, f"Bearer {SHORT}").status_code == 403
    for _ in range(BURST):
        asked(client, "Bearer wrong")
    assert asked(client, basic(SHORT), path="/v2/").status_code == 429
    assert asked(client, f"Bearer {SHORT}").status_code == 429


def test_asking_for_the_challenge_is_no_guess(service: Service) -> None:
    client = closed_pulls(service)
    for path in ["/v2/", "/v1/jobs"] * 2 * BURST:
        assert client.get(path).status_code == 401
    assert client.get("/v1/jobs", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_open_pulls_need_no_token_and_count_none(service: Service) -> None:
    client = create_app(service).test_client()
    for _ in range(2 * BURST):
        assert asked(client, "Bearer whatever", path="/v2/").status_code == 200
    assert asked(client, "Bearer wrong").status_code == 401
