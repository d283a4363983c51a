"""Lists of tags that fail: links that lead astray, bounds, damage, and errors."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

import pytest

from mirror.copying.cancellation import Cancellation, OperationCanceled, on_cancel, pause
from mirror.errors import (
    AnswerTooLarge,
    AnswerTruncated,
    ListingTooLarge,
    MirrorError,
    RateLimited,
    SourceFailed,
    SourceTooSlow,
)
from mirror.oci.reference import RepositoryPattern
from mirror.registry.client import RegistryClient
from tests.conftest import MakeSettings
from tests.integration.registry.conftest import LOGIN, LOOPBACK, MakeClient
from tests.integration.registry.scripted_lists import TAGS, failed_list, reply_with
from tests.support.fakes import faults
from tests.support.fakes.lists import tag_pages
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.fakes.server import HttpServer
from tests.support.fakes.throttle import UNTHROTTLED


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
    reply_with(registry, {"tags": ["a"]}, link=lambda _: link.format(host=registry.host))
    read, error = failed_list(client.tags(repository))
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
        _, error = failed_list(client.tags(repository))
    assert isinstance(error, SourceFailed)
    assert seen == []


def test_the_same_page_again_and_again_fails_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    reply_with(registry, {"tags": ["a"]}, link=lambda number: f"</v2/x?page={number}>; rel=next")
    read, error = failed_list(client.tags(repository))
    assert read == ["a"]
    assert isinstance(error, SourceFailed)
    assert "the same page" in error.message


@pytest.mark.parametrize("period", [1, 2, 5])
def test_pages_in_a_circle_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, period: int
) -> None:
    documents = [{"tags": [f"{n}"]} for n in range(period + 1)]
    reply_with(registry, *documents, link=lambda number: f"</v2/x?page={number % period}>; rel=next")
    read, error = failed_list(client.tags(repository))
    assert len(read) == period + 1
    assert isinstance(error, SourceFailed)
    assert "circle" in error.message
    assert len(registry.log(path="tags/list")) == period + 1


def test_endless_empty_pages_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    reply_with(registry, {"tags": []}, link=lambda number: f"</v2/x?page={number}>; rel=next")
    _, error = failed_list(client.tags(repository))
    assert isinstance(error, SourceFailed)
    assert "10 pages in a row" in error.message
    assert len(registry.log(path="tags/list")) == 11


def test_endless_pages_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.registry.pages.MAX_PAGES", 20)
    reply_with(
        registry, *({"tags": [f"{n}"]} for n in range(30)), link=lambda number: f"</v2/x?page={number}>; rel=next"
    )
    _, error = failed_list(client.tags(repository))
    assert isinstance(error, ListingTooLarge)
    assert "more than 20 pages" in error.message
    assert len(registry.log(path="tags/list")) == 20


def test_more_tags_than_are_read_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern
) -> None:
    reply_with(registry, {"tags": [f"{n}" for n in range(100_001)]})
    read, error = failed_list(client.tags(repository))
    assert read == []
    assert isinstance(error, ListingTooLarge)
    assert f"tags of {repository} has more than 100000 entries" in error.message


def test_a_list_has_a_time_limit_for_all_its_requests(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(step=600.0)
    monkeypatch.setattr("mirror.registry.pages.monotonic", lambda: float(next(ticks)))
    reply_with(
        registry, *({"tags": [f"{n}"]} for n in range(30)), link=lambda number: f"</v2/x?page={number}>; rel=next"
    )
    _, error = failed_list(client.tags(repository))
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
    reply_with(registry, {"tags": ["a"]}, body, link=lambda number: links[number])
    read, error = failed_list(client.tags(repository))
    assert read == ["a"]
    assert isinstance(error, SourceFailed)
    assert reason in error.message


@pytest.mark.parametrize("known_length", [True, False])
def test_a_page_of_ten_megabytes_is_not_read(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, *, known_length: bool
) -> None:
    reply_with(registry, b'{"tags": ["' + b"a" * 10_000_000 + b'"]}')
    if not known_length:
        registry.script(faults.faulty(faults.chunked()))
    _, error = failed_list(client.tags(repository))
    assert isinstance(error, AnswerTooLarge)


def test_a_page_that_is_cut_off_fails_the_list(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, waits: list[float]
) -> None:
    registry.script(tag_pages(TAGS))
    registry.script(lambda q, r: faults.cut_after(100)(r) if "last" in q.query else None)
    read, error = failed_list(client.tags(repository))
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
    _, error = failed_list(client.tags(repository))
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
    read, error = failed_list(client.tags(repository))
    assert read == TAGS[:1000]
    assert isinstance(error, kind)
    assert len(registry.log(path="tags/list")) == requests


@pytest.mark.parametrize("status", [405, 501])
def test_a_registry_that_lists_no_tags_is_asked_once(
    client: RegistryClient, registry: FakeRegistry, repository: RepositoryPattern, status: int
) -> None:
    registry.script(faults.faulty(faults.status(status), path="tags/list"))
    _, error = failed_list(client.tags(repository))
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
