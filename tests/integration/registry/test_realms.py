"""Credentials go only to a token server that belongs to the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import AddressNotAllowed, RealmNotAllowed
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient, docker_config, get_manifest, login_entry
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.registry import FakeRegistry, Tokens
from tests.support.fakes.server import HttpServer
from tests.support.images import TestImage


@pytest.fixture
def registry(app: TestImage) -> Iterator[FakeRegistry]:
    """A registry with Docker Hub's token flow, its token server on another port."""
    with FakeRegistry(tokens=Tokens()) as fake:
        fake.put(app, REPOSITORY, "1")
        yield fake


@pytest.mark.parametrize(
    "realm",
    [
        "https://evil.example/token",
        "http://evil.example/token",
        "https://127.0.0.1.evil.example/token",
        "https://user:password@127.0.0.1/token",
        "https://127.0.0.1@evil.example/token",
        "https://evil.example\\@127.0.0.1/token",
        "https://evil.example\\.127.0.0.1/token",
        "https://127.0.0.1\\.evil.example/token",
        "https://127.0.0.1%2eevil.example/token",
        "https://１27.0.0.1/token",
        "https://127.0.0.1\t.evil.example/token",
        "http://169.254.169.254/latest/meta-data",
        "ftp://127.0.0.1/token",
        "file:///etc/passwd",
        "https:///token",
        "https://[bad/token",
        "https://127.0.0.1:99999/token",
        "//evil.example/token",
        "//127.0.0.1@evil.example/token",
        "/\\\\evil.example/token",
        "https://",
        "token server",
        "127.0.0.1/token",
    ],
)
def test_credentials_are_not_sent_to_a_realm_of_another_host(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, config: Path, realm: str
) -> None:
    tokens.realm = realm.encode().decode("latin-1")  # http.server writes headers so
    with pytest.raises(RealmNotAllowed):
        get_manifest(client_of(registry, docker_config=config), reference)
    assert not registry.log("token")


def test_a_refused_realm_says_what_to_do(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, config: Path
) -> None:
    for realm, hint in (
        ("https://sso.example/token", "MIRROR_TOKEN_REALMS"),
        ("http://sso.example/token", "'sso.example:80' to MIRROR_INSECURE_REGISTRIES"),
        ("docker registry", "by its whole URL"),
    ):
        tokens.realm = realm
        with pytest.raises(RealmNotAllowed) as refused:
            get_manifest(client_of(registry, docker_config=config), reference)
        assert hint in refused.value.hint


def test_an_anonymous_realm_may_be_on_any_permitted_host(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, app: TestImage
) -> None:
    """Without credentials, a token server elsewhere has nothing to steal."""
    with HttpServer("elsewhere", tokens.reply_to) as elsewhere:
        host = elsewhere.host.replace("127.0.0.1", "localhost")
        tokens.realm = f"http://{host}/token"
        client = client_of(registry, insecure_registries={registry.host, host})
        assert get_manifest(client, reference).body == app.body
        assert elsewhere.connections == 1


def test_an_anonymous_realm_is_asked_over_https_if_nothing_else_is_permitted(
    client: RegistryClient, reference: Reference, tokens: Tokens
) -> None:
    tokens.realm = "http://tokens.example/token"
    with pytest.raises(RealmNotAllowed, match=r"tokens\.example.*https"):
        get_manifest(client, reference)


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "[::1]", "[fd00:ec2::254]", "0.0.0.0"])
def test_an_anonymous_realm_in_a_private_network_is_not_contacted(
    client: RegistryClient, reference: Reference, tokens: Tokens, host: str
) -> None:
    tokens.realm = f"https://{host}/token"
    with pytest.raises(AddressNotAllowed):
        get_manifest(client, reference)


def test_credentials_are_not_sent_everywhere_an_anonymous_request_is(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, config: Path
) -> None:
    with HttpServer("elsewhere", tokens.reply_to) as elsewhere:
        host = elsewhere.host.replace("127.0.0.1", "localhost")
        tokens.realm = f"http://{host}/token"
        client = client_of(registry, docker_config=config, insecure_registries={registry.host, host})
        with pytest.raises(RealmNotAllowed, match="not sent credentials"):
            get_manifest(client, reference)
        assert elsewhere.connections == 0


@pytest.mark.parametrize("named", ["localhost", "localhost:{port}"])
def test_credentials_go_to_a_realm_that_the_settings_name(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, config: Path, named: str
) -> None:
    tokens.login = LOGIN
    with HttpServer("elsewhere", tokens.reply_to) as elsewhere:
        port = elsewhere.server_address[1]
        tokens.realm = f"http://localhost:{port}/token"
        get_manifest(
            client_of(
                registry,
                docker_config=config,
                insecure_registries={registry.host, f"localhost:{port}"},
                token_realms={registry.host: frozenset({named.format(port=port)})},
            ),
            reference,
        )
        assert elsewhere.connections == 1


@pytest.mark.parametrize("realm", ["/token", "/token?kind=registry", "../token", "//{host}/token", "./../token"])
def test_a_relative_realm_is_one_of_the_registry_itself(
    client_of: MakeClient, app: TestImage, tmp_path: Path, realm: str
) -> None:
    with FakeRegistry(tokens=Tokens(login=LOGIN), token_on_api=True) as registry:
        registry.put(app, REPOSITORY, "1")
        assert registry.tokens
        registry.tokens.realm = realm.format(host=registry.host)
        config = docker_config(tmp_path, registry.host, login_entry())
        reference = Reference.parse(f"{registry.host}/{REPOSITORY}:1")
        assert get_manifest(client_of(registry, docker_config=config), reference).body == app.body
        assert registry.log(path="/token")[0].headers["Authorization"] == basic(LOGIN)


def test_an_http_endpoint_does_not_permit_a_plain_realm_on_another_port(
    client_of: MakeClient, registry: FakeRegistry
) -> None:
    client = client_of(registry_endpoints={"docker.io": registry.url})
    with pytest.raises(RealmNotAllowed, match="https"):
        get_manifest(client, Reference.parse("team/app:1"))
    assert not registry.log("token")


def test_an_endpoint_for_docker_hub_receives_docker_hubs_credentials(
    client_of: MakeClient, app: TestImage, tmp_path: Path
) -> None:
    config = docker_config(tmp_path, "https://index.docker.io/v1/", login_entry())
    with FakeRegistry(tokens=Tokens(login=LOGIN), token_on_api=True) as hub:
        hub.put(app, "library/redis", "7")
        client = client_of(registry_endpoints={"docker.io": hub.url}, docker_config=config)
        assert get_manifest(client, Reference.parse("redis:7")).body == app.body
        assert hub.log("api", path="/token")[0].headers["Authorization"] == basic(LOGIN)


@pytest.mark.parametrize(
    "scope",
    [
        "repository:team/app:pull,push",
        "repository:team/app:*",
        "repository:evilteam/app:pull",
        "registry:catalog:*",
        "repository:proxy/team/app:pull",
        "repository:team/app:pull repository:other/app:pull",
        "",
        "x" * 5000,
    ],
)
def test_a_registry_cannot_choose_the_scope_of_a_token(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, scope: str
) -> None:
    lie = faults.header("WWW-Authenticate", f'Bearer realm="{registry.token_url}",scope="{scope}"')
    registry.script(faults.faulty(lie, server="api", times=1))
    get_manifest(client, reference)
    assert [request.query["scope"] for request in registry.log("token")] == [["repository:team/app:pull"]]


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("scope=repository:other/app:push", {}),
        ("%73cope=repository:other/app:push&kind=a", {"kind": ["a"]}),
        ("a=b;Scope=registry:catalog:*&account=root", {"a": ["b"]}),
        ("service=another&scope&=", {}),
    ],
)
def test_a_realms_own_query_cannot_extend_the_scope(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    query: str,
    kept: dict[str, list[str]],
) -> None:
    tokens.realm = f"{registry.token_url}?{query}"
    get_manifest(client, reference)
    (asked,) = registry.log("token")
    assert asked.query == {**kept, "service": ["registry.test"], "scope": ["repository:team/app:pull"]}


@pytest.mark.parametrize(
    ("service", "asked"),
    [
        ("a&scope=repository:x:push", ["a&scope=repository:x:push"]),
        ("ü b", ["ü b"]),
        ("x" * 1024, ["x" * 1024]),
        ("x" * 1025, None),
        ("", None),
    ],
)
def test_the_service_of_the_challenge_is_encoded_and_bounded(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    tokens: Tokens,
    service: str,
    asked: list[str] | None,
) -> None:
    tokens.service = service.encode().decode("latin-1")  # http.server writes headers so
    get_manifest(client, reference)
    (request,) = registry.log("token")
    assert request.query.get("service") == asked
    assert request.query["scope"] == ["repository:team/app:pull"]
