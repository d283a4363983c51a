"""The token flow: how many tokens are fetched, for what, and with which login."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mirror.errors import Denied, RateLimited, SourceFailed, Unauthorized
from mirror.oci.media_types import ACCEPTED
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient, docker_config, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.registry import FakeRegistry, Reply, Tokens
from tests.support.images import TestImage


@pytest.fixture
def registry(app: TestImage) -> Iterator[FakeRegistry]:
    """A registry with Docker Hub's token flow, its token server on another port."""
    with FakeRegistry(tokens=Tokens()) as fake:
        for repository in (REPOSITORY, "team/other"):
            fake.put(app, repository, "1")
        yield fake


def _other(registry: FakeRegistry) -> Reference:
    return Reference.parse(f"{registry.host}/team/other:1")


def test_an_anonymous_token_opens_a_public_repository(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    assert get_manifest(client, reference).body == app.body
    (asked,) = registry.log("token")
    assert asked.query == {"service": ["registry.test"], "scope": [f"repository:{REPOSITORY}:pull"]}
    assert "Authorization" not in asked.headers


def test_many_threads_fetch_one_token_per_repository(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(get_manifest, client), [reference, _other(registry)] * 8))
    scopes = sorted(request.query["scope"][0] for request in registry.log("token"))
    assert scopes == ["repository:team/app:pull", "repository:team/other:pull"]


def test_after_the_first_challenge_the_token_is_sent_at_once(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    get_manifest(client, reference)
    get_manifest(client, reference)
    get_manifest(client, _other(registry))
    sent = [request.headers.get("Authorization", "").partition("-")[0] for request in registry.log("api")]
    assert sent == ["", "Bearer token", "Bearer token", "Bearer token"]


def test_a_token_is_for_one_repository_only(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    get_manifest(client, reference)
    get_manifest(client, _other(registry))
    assert [len(request.query["scope"]) for request in registry.log("token")] == [1, 1]
    assert [request.query["scope"][0].count(":") for request in registry.log("token")] == [2, 2]


def test_every_request_has_the_same_headers_after_a_login(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, tokens: Tokens
) -> None:
    get_manifest(client, reference)
    tokens.revoke()
    get_manifest(client, reference)
    accepts = {request.headers["Accept"] for request in registry.log("api")}
    assert accepts == {", ".join(ACCEPTED)}
    assert len(registry.log("api")) == 4


def test_a_revoked_token_is_replaced_once(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, app: TestImage
) -> None:
    get_manifest(client, reference)
    tokens.revoke()
    assert get_manifest(client, reference).body == app.body
    assert len(registry.log("token")) == 2


def test_an_expired_token_is_not_sent_again(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    monkeypatch.setattr("mirror.registry.auth.monotonic", clock)
    get_manifest(client, reference)
    clock.now += 289
    get_manifest(client, reference)
    assert len(registry.log("token")) == 1
    clock.now += 2  # ten seconds before its end
    get_manifest(client, reference)
    assert len(registry.log("token")) == 2
    assert len(registry.log("api")) == 4


def test_a_token_without_expires_in_is_valid_for_a_minute(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = _Clock()
    monkeypatch.setattr("mirror.registry.auth.monotonic", clock)
    tokens.expires_in = None
    get_manifest(client, reference)
    clock.now += 50
    get_manifest(client, reference)
    assert len(registry.log("token")) == 1
    clock.now += 10
    get_manifest(client, reference)
    assert len(registry.log("token")) == 2


def test_a_new_token_that_is_refused_is_not_replaced(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(
        faults.faulty(faults.status(401, WWW_Authenticate=f'Bearer realm="{registry.token_url}"'), server="api")
    )
    with pytest.raises(Unauthorized):
        get_manifest(client, reference)
    assert len(registry.log("token")) == 1
    assert len(registry.log("api")) == 2


def test_a_token_that_may_not_read_means_denied(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(lambda q, _: Reply(403) if "Authorization" in q.headers else None)
    with pytest.raises(Denied):
        get_manifest(client, reference)


def test_access_token_is_read_where_token_is_missing(
    client: RegistryClient, reference: Reference, tokens: Tokens, app: TestImage
) -> None:
    tokens.field_name = "access_token"
    assert get_manifest(client, reference).body == app.body


def test_credentials_go_to_the_token_server_and_only_there(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, config: Path
) -> None:
    tokens.login = LOGIN
    get_manifest(client_of(registry, docker_config=config), reference)
    (asked,) = registry.log("token")
    assert asked.headers["Authorization"] == basic(LOGIN)
    assert not any(basic(LOGIN) in request.headers.values() for request in registry.log("api"))


def test_wrong_credentials_are_tried_once(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, config: Path
) -> None:
    tokens.login = ("gordon", "another")
    with pytest.raises(Unauthorized, match="refuses our credentials") as caught:
        get_manifest(client_of(registry, docker_config=config), reference)
    assert "s3cret" not in str(caught.value)
    assert len(registry.log("token")) == 1


def test_a_private_repository_without_credentials_says_so(
    client: RegistryClient, reference: Reference, tokens: Tokens
) -> None:
    tokens.login = LOGIN
    with pytest.raises(Unauthorized, match="none are configured"):
        get_manifest(client, reference)


def test_an_identity_token_is_exchanged_by_post(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, tmp_path: Path
) -> None:
    tokens.login, tokens.identity = LOGIN, "identity+token/with=signs"
    config = docker_config(tmp_path, registry.host, {"identitytoken": "identity+token/with=signs"})
    get_manifest(client_of(registry, docker_config=config), reference)
    (asked,) = registry.log("token")
    assert asked.method == "POST"
    assert b"grant_type=refresh_token" in asked.body
    assert not asked.query
    assert "Authorization" not in asked.headers


def test_a_registry_with_basic_receives_the_credentials(
    client_of: MakeClient, reference: Reference, registry: FakeRegistry, config: Path
) -> None:
    registry.basic = LOGIN
    client = client_of(registry, docker_config=config)
    get_manifest(client, reference)
    get_manifest(client, reference)
    assert [request.headers.get("Authorization") for request in registry.log("api")] == [
        None,
        basic(LOGIN),
        basic(LOGIN),
    ]


def test_a_registry_with_basic_refuses_anonymous_clients(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.basic = LOGIN
    with pytest.raises(Unauthorized, match="none are configured"):
        get_manifest(client, reference)
    assert len(registry.log("api")) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"{}",
        b'{"token": ""}',
        b'{"token": 7}',
        b'{"token": "with blank"}',
        b'{"token": "with\\r\\nSet-Cookie: line"}',
        b'{"token": "\\u00fcmlaut"}',
        b'{"token": ' + b"[" * 100_000,
        b'{"token": "' + b"a" * 100_000 + b'"}',
        b"\xff\xfe",
    ],
)
def test_an_unusable_token_is_a_registry_failure(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, body: bytes
) -> None:
    registry.script(faults.faulty(faults.body(body), server="token"))
    with pytest.raises(SourceFailed):
        get_manifest(client, reference)
    assert len(registry.log("token")) == 1


@pytest.mark.parametrize("seconds", ["-1", "0", "true", '"300"', "1e999", "NaN", "[]"])
def test_an_unusable_expires_in_counts_as_a_minute(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, seconds: str
) -> None:
    token = f"odd-{seconds.strip(chr(34))}"
    tokens.issued[token] = f"repository:{REPOSITORY}:pull"
    body = f'{{"token": "{token}", "expires_in": {seconds}}}'.encode()
    registry.script(faults.faulty(faults.body(body), server="token"))
    get_manifest(client, reference)
    get_manifest(client, reference)
    assert len(registry.log("token")) == 1


def test_a_token_servers_limit_is_a_limit_of_the_registry(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(429, Retry_After="90"), server="token"))
    with pytest.raises(RateLimited) as caught:
        get_manifest(client, reference)
    assert caught.value.retry_after == 90


def test_a_failing_token_server_is_retried(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(faults.faulty(faults.status(503), server="token", times=2))
    assert get_manifest(client, reference).body == app.body


@pytest.mark.parametrize("header", ["", "Negotiate", "Bearer", 'Bearer service="no realm"', "nonsense=", "x" * 9000])
def test_a_challenge_without_a_known_scheme_is_a_registry_failure(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, header: str
) -> None:
    registry.script(faults.faulty(faults.status(401, WWW_Authenticate=header), server="api"))
    with pytest.raises(SourceFailed, match="scheme"):
        get_manifest(client, reference)


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
