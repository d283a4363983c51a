"""Token servers that redirect, or that send odd but usable replies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import SourceFailed, Unauthorized
from mirror.http.address_guard import AddressGuard
from mirror.http.transport import Transport
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.registry.credentials import Credential
from mirror.registry.endpoints import Endpoints
from tests.integration.registry.conftest import LOGIN, LOOPBACK, REPOSITORY, MakeClient, docker_config, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.certificates import Authority
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.fakes.server import HttpServer
from tests.support.fakes.throttle import UNTHROTTLED
from tests.support.images import TestImage

WANTED = {"service": ["registry.test"], "scope": [f"repository:{REPOSITORY}:pull"]}


@pytest.fixture
def registry(app: TestImage) -> Iterator[FakeRegistry]:
    """A registry with Docker Hub's token flow, its token server on another port."""
    with FakeRegistry(tokens=Tokens()) as fake:
        fake.put(app, REPOSITORY, "1")
        yield fake


def _moved(status: int, location: str, *, with_query: bool) -> faults.Script:
    """Move the token server from /token to *location*."""

    def script(request: Request, reply: Reply) -> Reply | None:
        if request.server != "token" or request.path != "/token":
            return None
        query = "&".join(f"{name}={value}" for name, values in request.query.items() for value in values)
        return Reply(status, {"Location": f"{location}?{query}" if with_query and query else location})

    return script


@pytest.mark.parametrize("with_query", [True, False])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirected_token_request_keeps_its_login_and_its_query(
    client_of: MakeClient,
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    config: Path,
    status: int,
    *,
    with_query: bool,
) -> None:
    tokens.login = LOGIN
    registry.script(_moved(status, "/token/", with_query=with_query))
    get_manifest(client_of(registry, docker_config=config), reference)
    _, moved = registry.log("token")
    assert (moved.method, moved.path) == ("GET", "/token/")
    assert moved.headers["Authorization"] == basic(LOGIN)
    assert moved.query == {**WANTED, "account": [LOGIN[0]]}


@pytest.mark.parametrize("location", ["/token/", "token/", "http://{host}/a/../token/", "//{host}/token/"])
def test_a_redirect_of_a_token_request_may_be_relative_or_absolute(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, location: str
) -> None:
    host = registry.token_url.removeprefix("http://").removesuffix("/token")
    registry.script(_moved(307, location.format(host=host), with_query=True))
    assert get_manifest(client, reference).body == app.body
    assert [request.query for request in registry.log("token")] == [WANTED, WANTED]


@pytest.mark.parametrize(
    ("status", "method"), [(301, "POST"), (302, "POST"), (307, "POST"), (308, "POST"), (303, "GET")]
)
def test_a_redirected_exchange_keeps_its_body_except_after_a_303(
    client_of: MakeClient,
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    tmp_path: Path,
    status: int,
    method: str,
) -> None:
    tokens.identity = "an identity token"
    registry.script(_moved(status, "/token/", with_query=False))
    config = docker_config(tmp_path, registry.host, {"identitytoken": tokens.identity})
    if method == "GET":  # after a 303, without the identity token, which this server refuses
        with pytest.raises(Unauthorized):
            get_manifest(client_of(registry, docker_config=config), reference)
    else:
        get_manifest(client_of(registry, docker_config=config), reference)
    first, moved = registry.log("token")[:2]
    assert (moved.method, moved.path) == (method, "/token/")
    assert moved.body == (first.body if method == "POST" else b"")
    assert "Authorization" not in moved.headers


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("login", ["password", "identity", None])
def test_a_token_request_is_not_redirected_to_another_origin(
    client_of: MakeClient,
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    tmp_path: Path,
    scheme: str,
    login: str | None,
) -> None:
    """The registry's API is another origin than its token server: another port."""
    host = f"localhost:{registry.host.partition(':')[2]}" if login is None else registry.host
    registry.script(_moved(307, f"{scheme}://{host}/stolen", with_query=True))
    entry = {"identitytoken": "secret-token"} if login == "identity" else {"username": "u", "password": "secret-token"}
    config = docker_config(tmp_path, registry.host, entry) if login else None
    with pytest.raises(SourceFailed, match="redirects to another origin") as caught:
        get_manifest(client_of(registry, docker_config=config), reference)
    assert f"{scheme}://{host}," in str(caught.value)
    assert "secret-token" not in str(caught.value)
    assert not registry.log(path="/stolen")


@pytest.mark.parametrize("credential", [None, Credential("user", "password")])
def test_only_an_anonymous_token_request_is_upgraded_to_https(
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    app: TestImage,
    tmp_path: Path,
    credential: Credential | None,
) -> None:
    """It is another origin of the same host, and an anonymous request risks nothing."""
    issued = Authority(tmp_path).issue("127.0.0.1")
    with HttpServer("token over TLS", tokens.reply_to, tls=issued.context()) as upgraded:
        registry.script(_moved(301, f"https://{upgraded.host}/token", with_query=True))
        transport = Transport(AddressGuard(LOOPBACK), ca_certs=str(issued.authority))
        endpoints = Endpoints(insecure=frozenset({registry.host}))
        client = RegistryClient(transport, endpoints, lambda *_: credential, throttle=UNTHROTTLED, sleep=lambda _: None)
        if credential is None:
            assert get_manifest(client, reference).body == app.body
        else:
            with pytest.raises(SourceFailed, match="another origin"):
                get_manifest(client, reference)
        client.close()
        assert upgraded.connections == (1 if credential is None else 0)


@pytest.mark.parametrize("location", ["/token", "/token/a", "?again=1", "http://[bad/", "ftp://127.0.0.1/token"])
def test_redirects_of_a_token_request_end(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, location: str
) -> None:
    registry.script(faults.faulty(faults.status(302, Location=location), server="token"))
    with pytest.raises(SourceFailed, match="its token server redirects"):
        get_manifest(client, reference)
    assert len(registry.log("token")) == (6 if location[0] in "/?" else 1)


def test_a_redirect_without_a_location_is_a_token_server_failure(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(307), server="token"))
    with pytest.raises(SourceFailed, match="its token server answered 307"):
        get_manifest(client, reference)


@pytest.mark.parametrize(
    "answer",
    [
        '{"token": "", "access_token": "T"}',
        '{"token": null, "access_token": "T"}',
        '{"token": 7, "access_token": "T"}',
        '{"token": "T", "access_token": ""}',
        '{"token": "T", "access_token": "another"}',
        '{"token": "T\\n"}',
        '\ufeff{"token": "T"}',
        '{"token": "T", "issued_at": "yesterday"}',
        '{"token": "T", "issued_at": 7, "expires_in": null}',
        '{"token": "T", "issued_at": "1999-01-01T00:00:00Z", "expires_in": 300}',
        '{"token": "T", "expires_in": 1e999}',
        '{"token": "T", "expires_in": 1' + "0" * 400 + "}",
        '{"token": "T", "expires_in": "300"}',
        '{"token": "T", "expires_in": "soon"}',
    ],
)
def test_an_odd_reply_with_a_token_is_used(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, answer: str
) -> None:
    tokens.issued["T"] = f"repository:{REPOSITORY}:pull"
    registry.script(faults.faulty(faults.body(answer.encode()), server="token"))
    for _ in range(2):
        get_manifest(client, reference)
    assert len(registry.log("token")) == 1


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [('"300"', 300), ("1e999", 12 * 3600), ("86400", 12 * 3600), ("0", 60), ("-5", 60), ("true", 60)],
)
def test_a_token_is_used_for_as_long_as_stated_within_bounds(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    stated: str,
    seconds: float,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("mirror.registry.auth.monotonic", lambda: now[0])
    tokens.issued["T"] = f"repository:{REPOSITORY}:pull"
    registry.script(faults.faulty(faults.body(f'{{"token": "T", "expires_in": {stated}}}'.encode()), server="token"))
    get_manifest(client, reference)
    now[0] += seconds - 11
    get_manifest(client, reference)
    assert len(registry.log("token")) == 1
    now[0] += 11
    get_manifest(client, reference)
    assert len(registry.log("token")) == 2


def test_a_refused_identity_token_is_reported_as_unauthorized(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tmp_path: Path
) -> None:
    """RFC 6749 demands 400 for a refresh token that is no longer valid."""
    registry.script(faults.faulty(faults.status(400, body=b'{"error":"invalid_grant"}'), server="token"))
    config = docker_config(tmp_path, registry.host, {"identitytoken": "expired"})
    with pytest.raises(Unauthorized, match="refuses our credentials"):
        get_manifest(client_of(registry, docker_config=config), reference)
    assert len(registry.log("token")) == 1


def test_an_anonymous_token_for_credentials_is_reported_as_unauthorized(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, config: Path
) -> None:
    """Some token servers give an anonymous token for a wrong password."""
    registry.script(faults.faulty(faults.body(b'{"token": "for-nobody"}'), server="token"))
    with pytest.raises(Unauthorized, match="refuses our credentials"):
        get_manifest(client_of(registry, docker_config=config), reference)
    assert (len(registry.log("token")), len(registry.log("api"))) == (1, 2)
