"""The repositories of a scripted registry: logins, the prefix, bounds, and registries without a catalog."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.errors import ListingDenied, ListingTooLarge, ListingUnsupported, SourceFailed
from mirror.oci.reference import RepositoryPattern
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import LOGIN, MakeClient
from tests.integration.registry.scripted_lists import TAGS, failed_list, reply_with
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.lists import body_of, catalog_pages, tag_pages
from tests.support.fakes.registry import FakeRegistry, Reply, Tokens


def test_the_catalog_has_a_token_of_its_own(client_of: MakeClient) -> None:
    with FakeRegistry(tokens=Tokens()) as registry:
        registry.script(tag_pages(TAGS))
        registry.script(catalog_pages(["team/app", "team/other"]))
        client = client_of(registry)
        assert list(client.repositories(RepositoryPattern.parse(f"{registry.host}/team/*"))) == [
            "team/app",
            "team/other",
        ]
        assert len(list(client.tags(RepositoryPattern(registry.host, "team/app")))) == len(TAGS)
        scopes = [request.query["scope"] for request in registry.log("token")]
        assert scopes == [["registry:catalog:*"], ["repository:team/app:pull"]]


def test_the_credential_of_the_prefix_is_used_for_the_catalog(
    client_of: MakeClient, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.basic = LOGIN
    registry.script(catalog_pages(["team/app"]))
    config = tmp_path / "namespaced.json"
    config.write_text(json.dumps({"auths": {f"{registry.host}/team": {"username": LOGIN[0], "password": LOGIN[1]}}}))
    client = client_of(registry, docker_config=config)
    assert list(client.repositories(RepositoryPattern.parse(f"{registry.host}/team/*"))) == ["team/app"]
    assert registry.log("api")[-1].headers["Authorization"] == basic(LOGIN)


@pytest.mark.parametrize("logged_in", [False, True])
def test_a_catalog_for_administrators_is_denied(
    client_of: MakeClient, registry: FakeRegistry, whole: RepositoryPattern, config: Path, *, logged_in: bool
) -> None:
    registry.basic = ("admin", "another")
    client = client_of(registry, docker_config=config if logged_in else None)
    read, error = failed_list(client.repositories(whole))
    assert read == []
    assert isinstance(error, ListingDenied)
    assert ("does not allow our credentials" in error.message) is logged_in
    assert "`images`" in error.hint


def test_a_catalog_that_the_token_server_refuses_is_denied(client_of: MakeClient) -> None:
    with FakeRegistry(tokens=Tokens()) as registry:
        registry.script(lambda q, _: Reply(403) if q.server == "token" else None)
        _, error = failed_list(client_of(registry).repositories(RepositoryPattern.parse(f"{registry.host}/*")))
        assert isinstance(error, ListingDenied)


def test_the_catalog_is_filtered_by_the_prefix(client: RegistryClient, registry: FakeRegistry) -> None:
    registry.script(catalog_pages(["team/a", "team/a/b", "teams/c", "team", "other/team/d", "team/e"], most=2))
    found = list(client.repositories(RepositoryPattern.parse(f"{registry.host}/team/*")))
    assert found == ["team/a", "team/a/b", "team/e"]


def test_names_that_break_the_grammar_are_left_out(
    client: RegistryClient, registry: FakeRegistry, whole: RepositoryPattern
) -> None:
    malformed = ["team/../admin", "Team/x", "/team", "team//x", "a b", "", 7, None, "x" * 250, "x" * 256]
    reply_with(registry, {"repositories": ["team/a", *malformed]}, path="_catalog")
    with capture_logs() as logs:
        assert list(client.repositories(whole)) == ["team/a"]
    assert [entry["count"] for entry in logs if "left out" in entry["event"]] == [len(malformed)]


def test_one_repository_needs_no_request(client: RegistryClient, registry: FakeRegistry) -> None:
    assert list(client.repositories(RepositoryPattern(registry.host, "team/app"))) == ["team/app"]
    assert registry.log() == []


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_registry_without_a_catalog_says_so(
    client: RegistryClient, registry: FakeRegistry, whole: RepositoryPattern, status: int
) -> None:
    registry.script(faults.faulty(faults.status(status), path="_catalog"))
    _, error = failed_list(client.repositories(whole))
    assert isinstance(error, ListingUnsupported)
    assert "no catalog" in error.message
    assert "`images`" in error.hint
    assert [request.path for request in registry.log()] == ["/v2/_catalog", "/api/v2.0/ping"]


def test_more_repositories_than_are_read_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, whole: RepositoryPattern
) -> None:
    reply_with(registry, {"repositories": [f"team/{n}" for n in range(10_001)]}, path="_catalog")
    read, error = failed_list(client.repositories(whole))
    assert len(read) == 10_000
    assert isinstance(error, ListingTooLarge)


def test_a_prefix_of_a_large_catalog_may_be_small(client: RegistryClient, registry: FakeRegistry) -> None:
    reply_with(registry, {"repositories": [f"a{n}/b" for n in range(50_000)]}, path="_catalog")
    assert list(client.repositories(RepositoryPattern.parse(f"{registry.host}/a7/*"))) == ["a7/b"]


def test_a_damaged_catalog_is_no_reason_to_try_another_api(
    client: RegistryClient, registry: FakeRegistry, whole: RepositoryPattern
) -> None:
    registry.script(lambda q, _: body_of(200, {"errors": []}) if "_catalog" in q.path else None)
    _, error = failed_list(client.repositories(whole))
    assert isinstance(error, SourceFailed)
    assert [request.path for request in registry.log()] == ["/v2/_catalog"]
