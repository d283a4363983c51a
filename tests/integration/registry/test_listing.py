"""The tags of a scripted registry, page by page."""

from __future__ import annotations

from itertools import islice

import pytest
from structlog.testing import capture_logs

from mirror.errors import RepositoryUnknown, Unauthorized
from mirror.oci.reference import RepositoryPattern
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient
from tests.integration.registry.scripted_lists import TAGS, failed_list, reply_with
from tests.support.fakes.lists import tag_pages
from tests.support.fakes.registry import FakeRegistry, Reply, Tokens


@pytest.mark.parametrize("link", ["{}", "http://{host}{{}}"])
def test_all_pages_are_read_by_their_links(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, link: str
) -> None:
    registry.script(tag_pages(TAGS, link=link.format(host=registry.host) if "host" in link else link))
    assert list(client.tags(repository)) == TAGS
    sent = [request.query for request in registry.log("api", path="tags/list")]
    assert sent == [{"n": ["1000"]}, {"n": ["1000"], "last": ["v1.999"]}, {"n": ["1000"], "last": ["v1.1999"]}]


def test_a_short_page_with_a_link_is_not_the_last_one(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    registry.script(tag_pages(TAGS[:50], most=7))
    assert list(client.tags(repository)) == TAGS[:50]


def test_a_page_is_requested_only_when_the_one_before_was_consumed(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    registry.script(tag_pages(TAGS))
    tags = client.tags(repository)
    assert registry.log("api", path="tags/list") == []
    assert list(islice(tags, 1000)) == TAGS[:1000]
    assert len(registry.log("api", path="tags/list")) == 1


def test_a_registry_that_ignores_n_sends_all_tags_at_once(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    reply_with(registry, {"name": REPOSITORY, "tags": TAGS})
    assert list(client.tags(repository)) == TAGS
    assert len(registry.log("api", path="tags/list")) == 1


@pytest.mark.parametrize("tags", [None, []])
def test_null_and_an_empty_list_are_a_repository_without_tags(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, tags: list[str] | None
) -> None:
    reply_with(registry, {"name": REPOSITORY, "tags": tags})
    assert list(client.tags(repository)) == []


def test_an_unknown_repository_is_not_an_empty_one(client: RegistryClient, registry: FakeRegistry) -> None:
    read, error = failed_list(client.tags(RepositoryPattern(registry.host, "team/nobody")))
    assert read == []
    assert isinstance(error, RepositoryUnknown)
    assert (error.code, "team/nobody" in error.message) == ("NAME_UNKNOWN", True)


def test_a_full_page_without_a_link_may_have_a_successor(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    pages = tag_pages(TAGS)
    pages.link = None
    registry.script(pages)
    assert list(client.tags(repository)) == TAGS


def test_a_registry_that_ignores_last_ends_after_the_same_page_again(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    reply_with(registry, {"tags": TAGS[:1000]})
    assert list(client.tags(repository)) == TAGS[:1000]
    assert len(registry.log("api", path="tags/list")) == 2


def test_a_registry_that_refuses_the_page_size_chooses_its_own(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    registry.script(tag_pages(TAGS[:50], most=20))
    registry.script(lambda q, _: Reply(400) if q.query.get("n") == ["1000"] else None)
    assert list(client.tags(repository)) == TAGS[:50]


def test_the_link_of_a_proxy_with_another_path_is_used_with_our_own_path(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    registry.script(tag_pages(TAGS[:50], most=20, link="/artifactory/api/docker{}"))
    assert list(client.tags(repository)) == TAGS[:50]
    assert {request.path for request in registry.requests} == {f"/v2/{REPOSITORY}/tags/list"}


def test_a_link_may_stand_among_others(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    links = ['</v2/x?a=0>; rel="first", </v2/x?last=a>; title="x, y"; rel=next', '<https://else.example/>; rel="help"']
    reply_with(registry, {"tags": ["a"]}, {"tags": ["b"]}, link=lambda number: links[number])
    assert list(client.tags(repository)) == ["a", "b"]


def test_empty_pages_with_a_link_go_on(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    documents = [{"tags": []}, {"tags": None}, {"tags": ["a"]}, {"tags": []}]
    links = ["</v2/x?p=1>; rel=next", "</v2/x?p=2>; rel=next", "</v2/x?p=3>; rel=next", ""]
    reply_with(registry, *documents, link=lambda number: links[number])
    assert list(client.tags(repository)) == ["a"]


def test_a_repeated_tag_is_yielded_once(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    links = ["</v2/x?p=1>; rel=next", ""]
    reply_with(registry, {"tags": ["a", "b", "a"]}, {"tags": ["b", "c"]}, link=lambda number: links[number])
    assert list(client.tags(repository)) == ["a", "b", "c"]


def test_malformed_tags_are_left_out_and_counted(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    malformed = ["../x", "", "a b", ".a", "x" * 129, "ü", "a\n", 7, None, {}, ["a"], "\ud800"]
    reply_with(registry, {"tags": ["a", *malformed, "b"]})
    with capture_logs() as logs:
        assert list(client.tags(repository)) == ["a", "b"]
    assert [entry["count"] for entry in logs if "left out" in entry["event"]] == [len(malformed)]


def test_a_list_of_tags_needs_a_token_to_pull_the_repository(
    client_of: MakeClient, repository: RepositoryPattern, app: object
) -> None:
    with FakeRegistry(tokens=Tokens()) as registry:
        registry.script(tag_pages(TAGS))
        assert list(client_of(registry).tags(RepositoryPattern(registry.host, REPOSITORY))) == TAGS
        (asked,) = registry.log("token")
        assert asked.query["scope"] == [f"repository:{REPOSITORY}:pull"]


def test_tags_of_a_private_repository_are_unauthorized(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    registry.basic = LOGIN
    _, error = failed_list(client.tags(repository))
    assert isinstance(error, Unauthorized)
