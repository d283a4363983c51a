"""Where credentials may go: to a token server that is the registry's own, for what was asked for, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import RealmNotAllowed, SourceFailed
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.fakes import faults
from tests.fakes.registry import FakeRegistry, Tokens
from tests.fakes.tokens import basic
from tests.images import TestImage
from tests.unit.registry.conftest import LOGIN, REPOSITORY, MakeClient, docker_config, login_entry


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
        "//127.0.0.1/token",
        "/token",
        "https://",
    ],
)
def test_credentials_never_leave_for_a_realm_that_is_not_the_registrys(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tokens: Tokens, config: Path, realm: str
) -> None:
    tokens.realm = realm.encode().decode("latin-1")  # http.server writes headers so
    with pytest.raises(RealmNotAllowed):
        client_of(registry, docker_config=config).get_manifest(reference)
    assert not registry.log("token")


def test_a_realm_elsewhere_is_not_asked_anonymously_either(
    client: RegistryClient, reference: Reference, tokens: Tokens
) -> None:
    tokens.realm = "https://evil.example/token"
    with pytest.raises(RealmNotAllowed, match=r"evil\.example"):
        client.get_manifest(reference)


def test_an_http_endpoint_does_not_permit_a_plain_realm_on_another_port(
    client_of: MakeClient, registry: FakeRegistry
) -> None:
    client = client_of(registry_endpoints={"docker.io": registry.url})
    with pytest.raises(RealmNotAllowed, match="https"):
        client.get_manifest(Reference.parse("team/app:1"))
    assert not registry.log("token")


def test_an_endpoint_in_docker_hubs_place_is_logged_in_to_with_docker_hubs_credentials(
    client_of: MakeClient, app: TestImage, tmp_path: Path
) -> None:
    config = docker_config(tmp_path, "https://index.docker.io/v1/", login_entry())
    with FakeRegistry(tokens=Tokens(login=LOGIN), token_on_api=True) as hub:
        hub.put(app, "library/redis", "7")
        client = client_of(registry_endpoints={"docker.io": hub.url}, docker_config=config)
        assert client.get_manifest(Reference.parse("redis:7")).body == app.body
        assert hub.log("api", path="/token")[0].headers["Authorization"] == basic(LOGIN)


def test_a_redirect_of_the_token_server_is_not_followed(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, config: Path
) -> None:
    registry.script(faults.faulty(faults.status(307, Location=f"{registry.url}/stolen"), server="token"))
    with pytest.raises(SourceFailed):
        client_of(registry, docker_config=config).get_manifest(reference)
    assert not registry.log(path="/stolen")


@pytest.mark.parametrize(
    "scope",
    [
        "repository:team/app:pull,push",
        "repository:team/app:*",
        "repository:evilteam/app:pull",
        "registry:catalog:*",
        "",
        "x" * 5000,
    ],
)
def test_a_registry_cannot_have_us_fetch_it_more_than_a_pull_of_what_we_asked_for(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, scope: str
) -> None:
    lie = faults.header("WWW-Authenticate", f'Bearer realm="{registry.token_url}",scope="{scope}"')
    registry.script(faults.faulty(lie, server="api", times=1))
    client.get_manifest(reference)
    assert [request.query["scope"] for request in registry.log("token")] == [["repository:team/app:pull"]]
