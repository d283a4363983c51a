"""Tags and the catalog of a scripted registry: pages, bounds, logins, and servers that are hostile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.copying.cancellation import Cancellation, OperationCanceled, on_cancel, pause
from mirror.errors import (
    AnswerTooLarge,
    AnswerTruncated,
    ListingDenied,
    ListingTooLarge,
    ListingUnsupported,
    MirrorError,
    RateLimited,
    RepositoryUnknown,
    SourceFailed,
    SourceTooSlow,
    Unauthorized,
)
from mirror.oci.reference import RepositoryPattern
from mirror.registry.client import RegistryClient
from tests.conftest import MakeSettings
from tests.integration.registry.conftest import LOGIN, LOOPBACK, REPOSITORY, MakeClient
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.lists import body_of, catalog_pages, tag_pages
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.fakes.server import HttpServer
from tests.support.fakes.throttle import UNTHROTTLED

TAGS = [f"v1.{n}" for n in range(2500)]


@pytest.fixture
def repository(registry: FakeRegistry) -> RepositoryPattern:
    return RepositoryPattern(registry.host, REPOSITORY)


@pytest.fixture
def whole(registry: FakeRegistry) -> RepositoryPattern:
    """All repositories of the registry."""
    return RepositoryPattern.parse(f"{registry.host}/*")


def _reply_with(
    registry: FakeRegistry, *documents: Any, link: Callable[[int], str] | None = None, path: str = "tags/list"
) -> None:
    """Serve one document after the other, with the Link that *link* returns for the number of the page."""
    pages = count()

    def script(request: Request, reply: Reply) -> Reply | None:
        if path not in request.path:
            return None
        number = next(pages)
        document = documents[min(number, len(documents) - 1)]
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Reply(200, {"Link": link(number)} if link else {}, body)

    registry.script(script)


def _failure(names: Iterator[str]) -> tuple[list[str], MirrorError]:
    """Read a list that must fail. Return what it yielded before, and the error."""
    read: list[str] = []
    with pytest.raises(MirrorError) as caught:
        read.extend(names)
    return read, caught.value


# --- pages


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
    _reply_with(registry, {"name": REPOSITORY, "tags": TAGS})
    assert list(client.tags(repository)) == TAGS
    assert len(registry.log("api", path="tags/list")) == 1


@pytest.mark.parametrize("tags", [None, []])
def test_null_and_an_empty_list_are_a_repository_without_tags(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, tags: list[str] | None
) -> None:
    _reply_with(registry, {"name": REPOSITORY, "tags": tags})
    assert list(client.tags(repository)) == []


def test_an_unknown_repository_is_not_an_empty_one(client: RegistryClient, registry: FakeRegistry) -> None:
    read, error = _failure(client.tags(RepositoryPattern(registry.host, "team/nobody")))
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
    _reply_with(registry, {"tags": TAGS[:1000]})
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
    _reply_with(registry, {"tags": ["a"]}, {"tags": ["b"]}, link=lambda number: links[number])
    assert list(client.tags(repository)) == ["a", "b"]


def test_empty_pages_with_a_link_go_on(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    documents = [{"tags": []}, {"tags": None}, {"tags": ["a"]}, {"tags": []}]
    links = ["</v2/x?p=1>; rel=next", "</v2/x?p=2>; rel=next", "</v2/x?p=3>; rel=next", ""]
    _reply_with(registry, *documents, link=lambda number: links[number])
    assert list(client.tags(repository)) == ["a"]


def test_a_repeated_tag_is_yielded_once(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    links = ["</v2/x?p=1>; rel=next", ""]
    _reply_with(registry, {"tags": ["a", "b", "a"]}, {"tags": ["b", "c"]}, link=lambda number: links[number])
    assert list(client.tags(repository)) == ["a", "b", "c"]


def test_malformed_tags_are_left_out_and_counted(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    malformed = ["../x", "", "a b", ".a", "x" * 129, "ü", "a\n", 7, None, {}, ["a"], "\ud800"]
    _reply_with(registry, {"tags": ["a", *malformed, "b"]})
    with capture_logs() as logs:
        assert list(client.tags(repository)) == ["a", "b"]
    assert [entry["count"] for entry in logs if "left out" in entry["event"]] == [len(malformed)]


# --- what is wrong with a list


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("<https://evil.example/v2/x?last=a>; rel=next", "another origin, https://evil.example"),
        ("<http://127.0.0.2:1/v2/x?last=a>; rel=next", "another origin"),
        ("<https://{host}/v2/x?last=a>; rel=next", "another origin"),
        ("<//evil.example/v2/x?last=a>; rel=next", "another origin"),
        ("<http://{host}@evil.example/v2/x?last=a>; rel=next", "no http or https URL"),
        ("<ftp://{host}/v2/x?last=a>; rel=next", "no http or https URL"),
        ("<http://[/?last=a>; rel=next", "no http or https URL"),
        ("</v2/x>; rel=next", "names no page"),
        ('/v2/x?last=a; rel="next"', "cannot be understood"),
        ("</v2/x?last=a>; rel=next, </v2/x?last=b>; rel=next", "cannot be understood"),
        ("</v2/x?last=" + "a" * 5000 + ">; rel=next", "4096 characters"),
    ],
)
def test_a_link_that_cannot_be_followed_fails_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, link: str, reason: str
) -> None:
    _reply_with(registry, {"tags": ["a"]}, link=lambda _: link.format(host=registry.host))
    read, error = _failure(client.tags(repository))
    assert read == []
    assert isinstance(error, SourceFailed)
    assert reason in error.message
    assert len(registry.log(path="tags/list")) == 1


def test_a_link_never_takes_the_login_to_another_origin(
    client_of: MakeClient, registry: FakeRegistry, repository: RepositoryPattern, config: Path
) -> None:
    seen: list[Request] = []

    def record(request: Request) -> Reply:
        seen.append(request)
        return Reply(404)

    registry.basic = LOGIN
    with HttpServer("evil", record) as evil:
        registry.script(tag_pages(TAGS, link=f"http://{evil.host}{{}}"))
        client = client_of(registry, docker_config=config)
        _, error = _failure(client.tags(repository))
    assert isinstance(error, SourceFailed)
    assert seen == []


def test_the_same_page_again_and_again_fails_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    _reply_with(registry, {"tags": ["a"]}, link=lambda number: f"</v2/x?page={number}>; rel=next")
    read, error = _failure(client.tags(repository))
    assert read == ["a"]
    assert isinstance(error, SourceFailed)
    assert "the same page" in error.message


@pytest.mark.parametrize("period", [1, 2, 5])
def test_pages_in_a_circle_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, period: int
) -> None:
    documents = [{"tags": [f"{n}"]} for n in range(period + 1)]
    _reply_with(registry, *documents, link=lambda number: f"</v2/x?page={number % period}>; rel=next")
    read, error = _failure(client.tags(repository))
    assert len(read) == period + 1
    assert isinstance(error, SourceFailed)
    assert "circle" in error.message
    assert len(registry.log(path="tags/list")) == period + 1


def test_endless_empty_pages_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    _reply_with(registry, {"tags": []}, link=lambda number: f"</v2/x?page={number}>; rel=next")
    _, error = _failure(client.tags(repository))
    assert isinstance(error, SourceFailed)
    assert "10 pages in a row" in error.message
    assert len(registry.log(path="tags/list")) == 11


def test_endless_pages_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.registry.pages.MAX_PAGES", 20)
    _reply_with(
        registry, *({"tags": [f"{n}"]} for n in range(30)), link=lambda number: f"</v2/x?page={number}>; rel=next"
    )
    _, error = _failure(client.tags(repository))
    assert isinstance(error, ListingTooLarge)
    assert "more than 20 pages" in error.message
    assert len(registry.log(path="tags/list")) == 20


def test_more_tags_than_are_read_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    _reply_with(registry, {"tags": [f"{n}" for n in range(100_001)]})
    read, error = _failure(client.tags(repository))
    assert read == []
    assert isinstance(error, ListingTooLarge)
    assert f"tags of {repository} has more than 100000 entries" in error.message


def test_a_list_has_a_time_limit_for_all_its_requests(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(step=600.0)
    monkeypatch.setattr("mirror.registry.pages.monotonic", lambda: float(next(ticks)))
    _reply_with(
        registry, *({"tags": [f"{n}"]} for n in range(30)), link=lambda number: f"</v2/x?page={number}>; rel=next"
    )
    _, error = _failure(client.tags(repository))
    assert isinstance(error, SourceTooSlow)
    assert error.out_of_time
    assert len(registry.log(path="tags/list")) == 7


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is not JSON"),
        (b"tags: a, b", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b'{"tags": ["a"', "is not JSON"),
        (b'{"tags": ["a"]} x', "is not JSON"),
        (b"<html>log in</html>", "HTML page"),
        (b'{"tags": ' + b"[" * 100_000, "is not JSON"),
        (b'{"tags": [' + b"[]," * 600_000 + b"[]]}", "more than 500000 values"),
        (b'{"tags": ["a"], "tags": ["b"]}', "a field twice"),
        (b'{"tags": [{"a": 1, "a": 2}]}', "a field twice"),
        (b'{"name": "x"}', "no field 'tags'"),
        (b"[]", "no field 'tags'"),
        (b"null", "no field 'tags'"),
        (b'{"tags": "a"}', "is not a list"),
        (b'{"tags": {"a": 1}}', "is not a list"),
        (b'{"tags": 7}', "is not a list"),
        (b'{"tags": [' + b"9" * 5000 + b"]}", "is not JSON"),
    ],
)
def test_a_page_that_is_no_list_fails_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, body: bytes, reason: str
) -> None:
    links = ["</v2/x?p=1>; rel=next", ""]
    _reply_with(registry, {"tags": ["a"]}, body, link=lambda number: links[number])
    read, error = _failure(client.tags(repository))
    assert read == ["a"]
    assert isinstance(error, SourceFailed)
    assert reason in error.message


@pytest.mark.parametrize("known_length", [True, False])
def test_a_page_of_ten_megabytes_is_not_read(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, *, known_length: bool
) -> None:
    _reply_with(registry, b'{"tags": ["' + b"a" * 10_000_000 + b'"]}')
    if not known_length:
        registry.script(faults.faulty(faults.chunked()))
    _, error = _failure(client.tags(repository))
    assert isinstance(error, AnswerTooLarge)


def test_a_page_that_is_cut_off_fails_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, waits: list[float]
) -> None:
    registry.script(tag_pages(TAGS))
    registry.script(lambda q, r: faults.cut_after(100)(r) if "last" in q.query else None)
    read, error = _failure(client.tags(repository))
    assert read == TAGS[:1000]
    assert isinstance(error, AnswerTruncated)
    assert len(waits) == 3


def test_a_page_that_is_cut_off_once_is_read_again(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    registry.script(tag_pages(TAGS))
    registry.script(faults.faulty(faults.cut_after(100), times=2))
    assert list(client.tags(repository)) == TAGS


def test_a_page_that_never_ends_fails_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.http.deadlines.REQUEST_SECONDS", 0.3)
    registry.script(tag_pages(TAGS))
    registry.script(faults.faulty(faults.held_until(threading.Event(), 100)))
    _, error = _failure(client.tags(repository))
    assert isinstance(error, SourceTooSlow)
    assert len(registry.log(path="tags/list")) == 1


@pytest.mark.parametrize(
    ("status", "kind", "requests"), [(500, SourceFailed, 5), (418, SourceFailed, 2), (429, RateLimited, 2)]
)
def test_a_failing_page_fails_the_list(
    client: RegistryClient,
    registry: FakeRegistry,
    repository: RepositoryPattern,
    status: int,
    kind: type[MirrorError],
    requests: int,
) -> None:
    registry.script(tag_pages(TAGS))
    registry.script(
        lambda q, _: Reply(status, {"Retry-After": "60"} if status == 429 else {}) if "last" in q.query else None
    )
    read, error = _failure(client.tags(repository))
    assert read == TAGS[:1000]
    assert isinstance(error, kind)
    assert len(registry.log(path="tags/list")) == requests


@pytest.mark.parametrize("status", [405, 501])
def test_a_registry_that_lists_no_tags_is_asked_once(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, status: int
) -> None:
    registry.script(faults.faulty(faults.status(status), path="tags/list"))
    _, error = _failure(client.tags(repository))
    assert isinstance(error, SourceFailed)
    assert "no list of the tags" in error.message
    assert "`images`" in error.hint
    assert len(registry.log(path="tags/list")) == 1


def test_a_canceled_task_does_not_wait_for_a_page(
    settings: MakeSettings, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    place = {"allowed_networks": LOOPBACK, "insecure_registries": frozenset({registry.host})}
    client = RegistryClient.from_settings(settings(**place), throttle=UNTHROTTLED, sleep=pause, on_cancel=on_cancel)
    cancellation = Cancellation()

    def cancel_at_the_second_page(request: Request, reply: Reply) -> Reply | None:
        if "last" not in request.query:
            return None
        cancellation.cancel("the job was canceled")
        return faults.held_until(threading.Event())(reply)

    registry.script(tag_pages(TAGS))
    registry.script(cancel_at_the_second_page)
    read: list[str] = []
    with cancellation.bound_to_thread(), pytest.raises(OperationCanceled):
        read.extend(client.tags(repository))
    assert read == TAGS[:1000]
    client.close()


# --- logins


def test_a_list_of_tags_needs_a_token_to_pull_the_repository(
    client_of: MakeClient, repository: RepositoryPattern, app: object
) -> None:
    with FakeRegistry(tokens=Tokens()) as registry:
        registry.script(tag_pages(TAGS))
        assert list(client_of(registry).tags(RepositoryPattern(registry.host, REPOSITORY))) == TAGS
        (asked,) = registry.log("token")
        assert asked.query["scope"] == [f"repository:{REPOSITORY}:pull"]


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


def test_tags_of_a_private_repository_are_unauthorized(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    registry.basic = LOGIN
    _, error = _failure(client.tags(repository))
    assert isinstance(error, Unauthorized)


@pytest.mark.parametrize("logged_in", [False, True])
def test_a_catalog_for_administrators_is_denied(
    client_of: MakeClient, registry: FakeRegistry, whole: RepositoryPattern, config: Path, *, logged_in: bool
) -> None:
    registry.basic = ("admin", "another")
    client = client_of(registry, docker_config=config if logged_in else None)
    read, error = _failure(client.repositories(whole))
    assert read == []
    assert isinstance(error, ListingDenied)
    assert ("does not allow our credentials" in error.message) is logged_in
    assert "`images`" in error.hint


def test_a_catalog_that_the_token_server_refuses_is_denied(client_of: MakeClient) -> None:
    with FakeRegistry(tokens=Tokens()) as registry:
        registry.script(lambda q, _: Reply(403) if q.server == "token" else None)
        _, error = _failure(client_of(registry).repositories(RepositoryPattern.parse(f"{registry.host}/*")))
        assert isinstance(error, ListingDenied)


# --- the catalog


def test_the_catalog_is_filtered_by_the_prefix(client: RegistryClient, registry: FakeRegistry) -> None:
    registry.script(catalog_pages(["team/a", "team/a/b", "teams/c", "team", "other/team/d", "team/e"], most=2))
    found = list(client.repositories(RepositoryPattern.parse(f"{registry.host}/team/*")))
    assert found == ["team/a", "team/a/b", "team/e"]


def test_names_that_break_the_grammar_are_left_out(
    client: RegistryClient, registry: FakeRegistry, whole: RepositoryPattern
) -> None:
    malformed = ["team/../admin", "Team/x", "/team", "team//x", "a b", "", 7, None, "x" * 250, "x" * 256]
    _reply_with(registry, {"repositories": ["team/a", *malformed]}, path="_catalog")
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
    _, error = _failure(client.repositories(whole))
    assert isinstance(error, ListingUnsupported)
    assert "no catalog" in error.message
    assert "`images`" in error.hint
    assert [request.path for request in registry.log()] == ["/v2/_catalog", "/api/v2.0/ping"]


def test_more_repositories_than_are_read_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, whole: RepositoryPattern
) -> None:
    _reply_with(registry, {"repositories": [f"team/{n}" for n in range(10_001)]}, path="_catalog")
    read, error = _failure(client.repositories(whole))
    assert len(read) == 10_000
    assert isinstance(error, ListingTooLarge)


def test_a_prefix_of_a_large_catalog_may_be_small(client: RegistryClient, registry: FakeRegistry) -> None:
    _reply_with(registry, {"repositories": [f"a{n}/b" for n in range(50_000)]}, path="_catalog")
    assert list(client.repositories(RepositoryPattern.parse(f"{registry.host}/a7/*"))) == ["a7/b"]


def test_a_damaged_catalog_is_no_reason_to_try_another_api(
    client: RegistryClient, registry: FakeRegistry, whole: RepositoryPattern
) -> None:
    registry.script(lambda q, _: body_of(200, {"errors": []}) if "_catalog" in q.path else None)
    _, error = _failure(client.repositories(whole))
    assert isinstance(error, SourceFailed)
    assert [request.path for request in registry.log()] == ["/v2/_catalog"]
