"""Lists of vendors that fail: cut off, damaged, or with a token or a URL that is not to be used."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import PlainHttpNotAllowed, SourceFailed
from mirror.settings import ListingApi
from tests.integration.registry.conftest import MakeClient
from tests.integration.registry.vendor_apis import NAMES, MakeApi, api_of, config, failure, github, listed
from tests.support.fakes.lists import body_of
from tests.support.fakes.server import Reply, Request

__all__ = ["api_of", "config"]


def hub_page(**fields: Any) -> Callable[[Request], Reply]:
    return lambda _: body_of(200, {"count": 1, "next": None, "results": [{"name": "a"}], **fields})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"count": 3}, "after 1 of 3 entries"),
        ({"count": -1}, "no possible length"),
        ({"count": "1"}, "no possible length"),
        ({"count": True}, "no possible length"),
        ({"next": "https://hub.docker.com/v2/x?page=2"}, "the same page"),
        ({"results": "a"}, "is not a list"),
        ({"results": {"a": 1}}, "is not a list"),
    ],
)
def test_a_vendors_list_that_is_cut_off_or_damaged_fails(
    client_of: MakeClient, api_of: MakeApi, fields: dict[str, Any], reason: str
) -> None:
    error = failure(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api_of(hub_page(**fields)).url))
    assert isinstance(error, SourceFailed)
    assert reason in error.message


def test_a_full_last_page_of_docker_hub_has_no_successor(client_of: MakeClient, api_of: MakeApi) -> None:
    results = [{"name": name} for name in NAMES[:100]]

    def exact(request: Request) -> Reply:
        found = request.query["page"] == ["1"]
        return body_of(200, {"count": 100, "next": None, "results": results}) if found else Reply(404)

    assert len(listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api_of(exact).url))) == 100


def test_a_list_that_ends_before_its_total_fails(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(lambda _: body_of(200, [{"path": "group/a"}], X_Total="2"))
    error = failure(client_of, "registry.gitlab.com/group/*", ListingApi("gitlab", api.url))
    assert isinstance(error, SourceFailed)
    assert "after 1 of 2 entries" in error.message


def test_a_full_page_whose_link_was_dropped_has_a_successor(
    client_of: MakeClient, api_of: MakeApi, config: Path
) -> None:
    def without_link(request: Request) -> Reply:
        reply = github(request)
        reply.headers.pop("Link", None)
        return reply

    api = ListingApi("github", api_of(without_link).url)
    assert len(listed(client_of, "ghcr.io/homebrew/*", api, docker_config=config)) == 121


def test_a_page_names_no_url_that_is_requested(client_of: MakeClient, api_of: MakeApi) -> None:
    other = api_of(lambda _: Reply(404))

    def lying(request: Request) -> Reply:
        more = request.query["page"] == ["1"]
        return body_of(
            200, {"count": 2, "next": f"{other.url}/v2/secret" if more else None, "results": [{"name": "a"}]}
        )

    assert listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api_of(lying).url)) == ["bitnami/a"]
    assert other.requests == []


@pytest.mark.parametrize("token", [7, ["a"], "x" * 2000, "a\nb", "é"])
def test_a_token_that_cannot_be_sent_fails_the_list(client_of: MakeClient, api_of: MakeApi, token: Any) -> None:
    api = api_of(lambda _: body_of(200, {"repositories": [{"name": "a"}], "next_page": token}))
    error = failure(client_of, "quay.io/prometheus/*", ListingApi("quay", api.url))
    assert isinstance(error, SourceFailed)
    assert "next_page" in error.message


def test_a_token_that_repeats_fails_the_list(client_of: MakeClient, api_of: MakeApi) -> None:
    names = count()
    api = api_of(lambda _: body_of(200, {"repositories": [{"name": f"a{next(names)}"}], "next_page": "x&y=z"}))
    error = failure(client_of, "quay.io/prometheus/*", ListingApi("quay", api.url))
    assert isinstance(error, SourceFailed)
    assert "circle" in error.message
    assert [request.query.get("next_page") for request in api.requests] == [None, ["x&y=z"]]


def test_names_outside_the_namespace_are_not_taken(client_of: MakeClient, api_of: MakeApi) -> None:
    names = ["../admin/x", "a/../../b", "A", "good"]
    api = api_of(lambda _: body_of(200, {"next": None, "results": [{"name": name} for name in names]}))
    assert listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url)) == ["bitnami/good"]
    paths = [{"path": "other/x"}, {"path": "group/x"}]
    other = api_of(lambda _: body_of(200, paths))
    assert listed(client_of, "registry.gitlab.com/group/*", ListingApi("gitlab", other.url)) == ["group/x"]


def test_a_redirect_drops_the_token_and_stays_off_plain_http(
    client_of: MakeClient, api_of: MakeApi, config: Path
) -> None:
    other = api_of(lambda _: body_of(200, [{"name": "a"}]))
    api = api_of(lambda _: Reply(302, {"Location": f"{other.url}/x"}))
    error = failure(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url), docker_config=config)
    assert isinstance(error, PlainHttpNotAllowed)
    insecure = frozenset({other.server.host})
    settings = {"docker_config": config, "insecure_registries": insecure}
    assert listed(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url), **settings) == ["homebrew/a"]
    assert [request.headers.get("Authorization") for request in other.requests] == [None]
