"""Tags of referrers at a scripted registry: a list that fails never reads as "it has no signature"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mirror.errors import Denied, MirrorError, RateLimited, SourceFailed, SourceUnreachable, Unauthorized
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.oci.referrer import cosign_tags, fallback_tag
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient, docker_config, login_entry
from tests.integration.registry.scripted_referrers import BUNDLE
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.lists import tag_pages
from tests.support.fakes.registry import FakeRegistry, Reply, Tokens
from tests.support.images import TestImage, artifact


def tags_of(subject: Digest) -> list[str]:
    return [fallback_tag(subject), *cosign_tags(subject), f"{fallback_tag(subject)}.0123456789abcdef"]


def test_tags_of_referrers_are_found_among_all_tags(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(tag_pages(["1", *tags_of(app.digest), *(f"v{n}" for n in range(9000)), "sha256-1", "latest"]))
    assert client.referrer_tags(reference) == frozenset(tags_of(app.digest))
    assert len(registry.log(path="tags/list")) == 10


def test_a_repository_may_have_no_tags_of_referrers(client: RegistryClient, reference: Reference) -> None:
    assert client.referrer_tags(reference) == frozenset()


@pytest.mark.parametrize(
    "change",
    [
        *(faults.status(status) for status in (400, 401, 403, 404, 405, 406, 418, 501)),
        faults.status(200, body=b"<html></html>"),
        faults.status(200, body=b'{"tags": ["a"'),
        faults.status(200, body=b'{"name": "x"}'),
        faults.status(200, body=b'{"tags": ["a"]}', Link="<https://evil.example/v2/x?last=a>; rel=next"),
        faults.status(200, body=b'{"tags": ["a"]}', Content_Length=f"{2**30}"),
    ],
)
def test_without_a_complete_list_there_is_none(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    change: faults.Change,
    waits: list[float],
) -> None:
    registry.script(faults.faulty(change, path="tags/list"))
    assert client.referrer_tags(reference) is None
    assert waits == []


def test_a_list_of_many_pages_is_given_up(client: RegistryClient, registry: FakeRegistry, reference: Reference) -> None:
    registry.script(tag_pages([f"v{n}" for n in range(10_001)]))
    assert client.referrer_tags(reference) is None
    assert len(registry.log(path="tags/list")) == 10


@pytest.mark.parametrize(
    ("change", "kind"),
    [(faults.status(429), RateLimited), (faults.status(500), SourceFailed), (faults.hung_up(), SourceUnreachable)],
)
def test_a_list_of_tags_that_fails_may_work_later(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    change: faults.Change,
    kind: type[MirrorError],
) -> None:
    registry.script(faults.faulty(change, path="tags/list"))
    with pytest.raises(kind):
        client.referrer_tags(reference)


@pytest.fixture(params=["open", "basic", "anonymous token", "token", "hidden", "anonymous at a hidden one"])
def any_login(
    request: pytest.FixtureRequest, client_of: MakeClient, tmp_path: Path
) -> tuple[FakeRegistry, RegistryClient]:
    """A registry with each kind of login, and a client of it."""
    kind = request.param
    tokens = Tokens(login=LOGIN if kind == "token" else None) if "token" in kind else None
    registry = request.getfixturevalue("registry")
    registry.tokens, registry.basic = tokens, LOGIN if kind == "basic" else None
    if kind.startswith("hidden"):
        registry.basic = LOGIN
        registry.script(lambda q, reply: Reply(404) if reply.status == 401 and q.path != "/v2/" else None)
    wants_login = kind in ("basic", "token", "hidden")
    config = docker_config(tmp_path, registry.host, login_entry()) if wants_login else None
    return registry, client_of(registry, docker_config=config)


def test_one_tag_is_there_or_not_for_every_login(
    any_login: tuple[FakeRegistry, RegistryClient], app: TestImage
) -> None:
    registry, client = any_login
    signature = artifact(BUNDLE, b"a signature", subject=app)
    registry.put(signature, REPOSITORY, fallback_tag(app.digest))
    reference = Reference(registry.host, REPOSITORY, fallback_tag(app.digest))
    assert client.tag_digest(reference) == signature.digest
    assert client.tag_digest(replace(reference, tag=f"{reference.tag}.sig")) is None


def test_a_tag_that_only_a_get_finds_is_there(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(faults.faulty(faults.status(404), method="HEAD"))
    assert client.tag_digest(reference) == app.digest
    assert [request.method for request in registry.log()] == ["HEAD", "GET"]


def test_a_head_finds_the_tag_and_costs_no_quota(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(PullLimit(100, window=600))
    client.head(reference)
    before = len(registry.requests)
    assert client.tag_digest(reference) == app.digest
    assert client.tag_digest(replace(reference, tag=fallback_tag(app.digest))) is None
    assert [request.method for request in registry.requests[before:]] == ["HEAD", "HEAD", "GET"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (faults.status(403), Denied),
        (faults.status(429), RateLimited),
        (faults.status(500), SourceFailed),
        (faults.status(418), SourceFailed),
        (faults.status(200, body=b"<html></html>"), SourceFailed),
        (faults.hung_up(), SourceUnreachable),
    ],
)
def test_a_tag_that_cannot_be_asked_for_is_not_missing(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    change: faults.Change,
    kind: type[MirrorError],
) -> None:
    registry.script(faults.faulty(change, path="/manifests/sha256-"))
    with pytest.raises(kind):
        client.tag_digest(replace(reference, tag=f"sha256-{'0' * 64}.sig"))


def test_a_tag_of_a_private_repository_is_not_missing(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.basic = LOGIN
    with pytest.raises(Unauthorized):
        client.tag_digest(replace(reference, tag=f"sha256-{'0' * 64}.sig"))


def test_a_registry_that_takes_a_fallback_tag_for_its_digest_has_no_such_tag(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    """GitLab does. Its image would be read as the list of its own referrers."""
    registry.put(app, REPOSITORY, fallback_tag(app.digest))
    assert client.tag_digest(replace(reference, tag=fallback_tag(app.digest))) is None
