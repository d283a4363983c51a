"""The APIs of vendors that list repositories: Docker Hub, Quay, GitHub and GitLab."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.errors import ListingDenied, ListingUnsupported, MirrorError, RateLimited, RepositoryUnknown, SourceFailed
from mirror.oci.reference import RepositoryPattern
from mirror.registry.vendors import KNOWN_APIS
from mirror.settings import ListingApi
from tests.integration.registry.conftest import MakeClient
from tests.integration.registry.vendor_apis import (
    NAMES,
    TOKEN,
    MakeApi,
    api_of,
    config,
    docker_hub,
    failure,
    github,
    gitlab,
    listed,
    quay,
)
from tests.support.fakes.lists import body_of
from tests.support.fakes.server import Reply, Request

__all__ = ["api_of", "config"]


def test_docker_hub_lists_the_public_repositories_of_a_namespace(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(docker_hub)
    found = listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url))
    assert found == [f"bitnami/{name}" for name in NAMES]
    assert [request.query["page"] for request in api.requests] == [["1"], ["2"], ["3"]]
    assert not any("Authorization" in request.headers for request in api.requests)


def test_docker_hub_exchanges_the_login_for_a_token(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    def private(request: Request) -> Reply:
        if request.path == "/v2/auth/token":
            return body_of(200, {"access_token": "eyJ.short.lived"})
        allowed = request.headers.get("Authorization") == "Bearer eyJ.short.lived"
        return docker_hub(request) if allowed else body_of(404, {"message": "object not found"})

    api = api_of(private)
    found = listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url), docker_config=config)
    assert len(found) == len(NAMES)
    assert [request.method for request in api.requests] == ["POST", "GET", "GET", "GET"]
    assert json.loads(api.requests[0].body) == {"identifier": "gordon", "secret": TOKEN}


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (body_of(401, {"detail": "Incorrect authentication credentials"}), ListingDenied),
        (body_of(200, {"access_token": "with blank"}), SourceFailed),
        (body_of(200, []), SourceFailed),
        (Reply(307, {"Location": "https://elsewhere.example/v2/auth/token"}), SourceFailed),
    ],
)
def test_a_login_that_docker_hub_refuses_is_an_error(
    client_of: MakeClient, api_of: MakeApi, config: Path, reply: Reply, kind: type[MirrorError]
) -> None:
    api = api_of(lambda _: reply)
    error = failure(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url), docker_config=config)
    assert isinstance(error, kind)
    assert TOKEN not in repr((error, error.hint, error.reason))
    assert len(api.requests) == 1


def test_the_api_of_docker_hub_is_on_its_own_host() -> None:
    assert KNOWN_APIS["docker.io"] == ListingApi("docker-hub", "https://hub.docker.com")


def test_plugins_on_docker_hub_are_no_images(client_of: MakeClient, api_of: MakeApi) -> None:
    results = [{"name": "a", "repository_type": None}, {"name": "b", "repository_type": "plugin"}]
    api = api_of(lambda _: body_of(200, {"count": 2, "next": None, "results": results}))
    assert listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url)) == ["bitnami/a"]


def test_quay_lists_the_public_repositories_of_a_namespace(
    client_of: MakeClient, api_of: MakeApi, config: Path
) -> None:
    api = api_of(quay)
    found = listed(client_of, "quay.io/prometheus/*", ListingApi("quay", api.url), docker_config=config)
    assert found == [f"prometheus/{name}" for name in NAMES]
    assert [request.query.get("next_page") for request in api.requests] == [None, ["t=100"], ["t=200"]]
    assert not any("Authorization" in request.headers for request in api.requests)


def test_github_lists_the_packages_of_an_organization(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    api = api_of(github)
    found = listed(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url), docker_config=config)
    assert found == [f"homebrew/{name}" for name in [*NAMES[:120], "charts/nested"]]
    assert len(api.requests) == 2


def test_github_lists_the_packages_of_a_user(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    api = api_of(github)
    found = listed(client_of, "ghcr.io/octocat/*", ListingApi("github", api.url), docker_config=config)
    assert found == [f"octocat/{NAMES[0]}"]
    assert [request.path for request in api.requests] == ["/orgs/octocat/packages", "/users/octocat/packages"]


def test_github_needs_an_access_token(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(github)
    error = failure(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url))
    assert isinstance(error, ListingDenied)
    assert "ghcr.io wants credentials" in error.message


def test_the_limit_of_githubs_api_is_waited_for(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(lambda _: body_of(403, {"message": "API rate limit exceeded"}, x_ratelimit_remaining="0"))
    assert isinstance(failure(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url)), RateLimited)


def test_gitlab_lists_a_group_with_its_subgroups(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    api = api_of(gitlab)
    pattern = "registry.gitlab.com/group/sub/*"
    found = listed(client_of, pattern, ListingApi("gitlab", api.url), docker_config=config)
    assert found == [f"group/sub/{name}" for name in NAMES]
    assert {request.headers.get("Authorization") for request in api.requests} == {f"Bearer {TOKEN}"}


def test_gitlab_lists_a_project_without_a_login(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(gitlab)
    found = listed(client_of, "registry.gitlab.com/group/project/*", ListingApi("gitlab", api.url))
    assert found == ["group/project/x"]
    assert not any("Authorization" in request.headers for request in api.requests)


def test_a_gitlab_of_ones_own_is_named_by_the_settings(client_of: MakeClient, api_of: MakeApi) -> None:
    found = listed(client_of, "registry.corp/group/sub/*", ListingApi("gitlab", api_of(gitlab).url))
    assert len(found) == len(NAMES)


@pytest.mark.parametrize(
    ("pattern", "vendor", "serve"),
    [
        ("ghcr.io/nobody/*", "github", github),
        ("registry.gitlab.com/nobody/*", "gitlab", gitlab),
    ],
)
def test_an_unknown_group_or_owner_is_an_error(
    client_of: MakeClient, api_of: MakeApi, config: Path, pattern: str, vendor: str, serve: Callable[[Request], Reply]
) -> None:
    error = failure(client_of, pattern, ListingApi(vendor, api_of(serve).url), docker_config=config)
    assert isinstance(error, RepositoryUnknown)
    assert "'nobody'" in error.message


def test_an_unknown_namespace_is_an_error(client_of: MakeClient, api_of: MakeApi) -> None:
    error = failure(client_of, "docker.io/nobody/*", ListingApi("docker-hub", api_of(docker_hub).url))
    assert isinstance(error, RepositoryUnknown)


@pytest.mark.parametrize("registry", ["quay.io", "ghcr.io", "registry.gitlab.com"])
def test_nobody_can_list_all_of_a_public_registry(client_of: MakeClient, registry: str) -> None:
    with pytest.raises(ListingUnsupported) as caught:
        list(client_of().repositories(RepositoryPattern.parse(f"{registry}/*")))
    assert f"{registry}/NAMESPACE/*" in caught.value.hint
