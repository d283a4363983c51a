"""Referrers at a scripted registry: its API, its tags, and what must never read as "it has no signature"."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.errors import (
    AnswerTooLarge,
    AnswerTruncated,
    Denied,
    ListingTooLarge,
    ManifestInvalid,
    MirrorError,
    RateLimited,
    SizeInvalid,
    SourceFailed,
    SourceUnreachable,
    Unauthorized,
)
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX, OCI_MANIFEST
from mirror.oci.reference import Reference
from mirror.oci.referrer import EMPTY_TYPE, cosign_tags, fallback_tag
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient, docker_config, login_entry
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.lists import tag_pages
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.fakes.server import HttpServer
from tests.support.images import TestImage, artifact, image, layer

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURES = [f"a signature {n}".encode() for n in range(5)]
NO_API = {
    "404": faults.status(404, body=b"404 page not found\n"),
    "404 with a code": faults.status(404, body=b'{"errors":[{"code":"NOT_FOUND","message":"page not found"}]}'),
    "404 with a body that is no error": faults.status(404, body=b'{"errors": 7}'),
    "405": faults.status(405),
    "406": faults.status(406, body=b'{"errors":[{"status":406,"message":"Not Acceptable"}]}'),
    "501": faults.status(501),
    "a web page": faults.status(200, body=b"<!DOCTYPE html><html></html>", Content_Type="text/html"),
    "a web page without a label": faults.status(200, body=b"\n <html>log in</html>"),
}
FOR_THIS_SUBJECT = {
    "400": faults.status(400),
    "400 from Quay": faults.status(400, body=b'{"errors":[{"code":"MANIFEST_INVALID"}]}'),
    "404 for the subject": faults.status(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'),
    "404 for the repository": faults.status(404, body=b'{"errors":[{"code":"NAME_UNKNOWN"}]}'),
}
HINT = '"referrers": false'


@pytest.fixture
def subject(registry: FakeRegistry, app: TestImage) -> Reference:
    registry.referrers_api = True
    return Reference(registry.host, REPOSITORY, None, app.digest)


def entry(number: int = 0, **fields: Any) -> dict[str, Any]:
    content = f"entry {number}".encode()
    found = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(content)), "size": len(content), "artifactType": BUNDLE}
    return found | fields


def listed(*entries: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def serve(registry: FakeRegistry, *bodies: bytes, link: Callable[[int], str] = lambda _: "") -> None:
    """Serve one page of the API after the other, with the Link that *link* returns for the number of the page."""
    pages = count()

    def script(request: Request, _: Reply) -> Reply | None:
        if "/referrers/" not in request.path:
            return None
        number = next(pages)
        return Reply(200, {"Content-Type": OCI_INDEX, "Link": link(number)}, bodies[min(number, len(bodies) - 1)])

    registry.script(script)


def asked(registry: FakeRegistry) -> int:
    return len(registry.log(path="/referrers/"))


def failure(client: RegistryClient, subject: Reference) -> MirrorError:
    with pytest.raises(MirrorError) as caught:
        client.referrers(subject)
    return caught.value


# --- the API


@pytest.mark.parametrize("page", [0, 1, 2])
def test_all_referrers_are_listed_in_pages(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, app: TestImage, page: int
) -> None:
    registry.referrers_page = page
    signatures = [artifact(BUNDLE, content, subject=app) for content in SIGNATURES]
    for signature in signatures:
        registry.put(signature, REPOSITORY)
    registry.put(artifact(BUNDLE, b"of another image", subject=image(layer("other"))), REPOSITORY)
    found = client.referrers(subject)
    assert found is not None
    assert [referrer.digest for referrer in found] == [signature.digest for signature in signatures]
    assert {(referrer.artifact_type, referrer.is_typed) for referrer in found} == {(BUNDLE, True)}
    assert asked(registry) == {0: 1, 1: 5, 2: 3}[page]
    first = registry.log(path="/referrers/")[0]
    assert (first.path, first.query) == (f"/v2/{REPOSITORY}/referrers/{app.digest}", {})
    assert first.headers["Accept"] == OCI_INDEX


def test_an_empty_list_says_that_there_are_none(client: RegistryClient, subject: Reference) -> None:
    assert client.referrers(subject) == ()


@pytest.mark.parametrize("body", [b'{"manifests": null}', b'{"manifests": []}', listed()])
def test_null_is_an_empty_list(client: RegistryClient, registry: FakeRegistry, subject: Reference, body: bytes) -> None:
    serve(registry, body)
    assert client.referrers(subject) == ()


@pytest.mark.parametrize(
    "change",
    [
        faults.header("Content-Type", "application/json"),
        faults.header("Content-Type", "text/html"),
        faults.header("Content-Type", None),
        faults.header("OCI-Filters-Applied", "artifactType"),
    ],
)
def test_the_body_decides_whatever_the_headers_say(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, change: faults.Change
) -> None:
    serve(registry, listed(entry()))
    registry.script(faults.faulty(change))
    assert len(client.referrers(subject) or ()) == 1


def test_entries_come_out_as_the_registry_lists_them(
    client: RegistryClient, registry: FakeRegistry, subject: Reference
) -> None:
    """GHCR names the type of the empty config for every referrer."""
    annotations = {"org.example.kind": "a", "number": 1}
    serve(registry, listed(entry(1, artifactType=EMPTY_TYPE), entry(2, annotations=annotations), entry(1)))
    found = client.referrers(subject)
    assert found is not None
    assert [(r.artifact_type, r.is_typed, dict(r.annotations)) for r in found] == [
        (EMPTY_TYPE, False, {}),
        (BUNDLE, True, {"org.example.kind": "a"}),
    ]


@pytest.mark.parametrize("link", ["</v2/x?p={}>; rel=next", "<http://{host}/v2/x?p={}>; rel=next", "<?p={}>; rel=next"])
def test_links_are_followed_with_our_own_path(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, link: str
) -> None:
    links = [link.replace("{host}", registry.host).format(n) for n in (1, 2)] + [""]
    serve(registry, listed(entry(0), entry(1)), listed(), listed(entry(1), entry(2)), link=lambda n: links[n])
    assert [r.descriptor.size for r in client.referrers(subject) or ()] == [7, 7, 7]
    assert {request.path for request in registry.requests} == {f"/v2/{REPOSITORY}/referrers/{subject.digest}"}
    assert [request.query for request in registry.requests] == [{}, {"p": ["1"]}, {"p": ["2"]}]


def test_the_list_needs_a_token_to_pull_the_repository(client_of: MakeClient, app: TestImage) -> None:
    with FakeRegistry(tokens=Tokens(), referrers_api=True) as registry:
        registry.put(artifact(BUNDLE, SIGNATURES[0], subject=app), REPOSITORY)
        found = client_of(registry).referrers(Reference(registry.host, REPOSITORY, None, app.digest))
        assert len(found or ()) == 1
        assert [request.query["scope"] for request in registry.log("token")] == [[f"repository:{REPOSITORY}:pull"]]


def test_other_media_types_are_left_out_and_logged(
    client: RegistryClient, registry: FakeRegistry, subject: Reference
) -> None:
    other = "application/vnd.oci.artifact.manifest.v1+json"
    serve(registry, listed(entry(1, mediaType=other), entry(2), entry(3, mediaType=OCI_INDEX)))
    with capture_logs() as logs:
        found = client.referrers(subject)
    assert [r.descriptor.media_type for r in found or ()] == [OCI_MANIFEST, OCI_INDEX]
    assert [line["media_types"] for line in logs if "left out" in line["event"]] == [[other]]


# --- a registry without the API


@pytest.mark.parametrize("change", [*NO_API.values(), *FOR_THIS_SUBJECT.values()], ids=[*NO_API, *FOR_THIS_SUBJECT])
def test_a_registry_without_the_api_lists_nothing(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, change: faults.Change, waits: list[float]
) -> None:
    registry.script(faults.faulty(change))
    assert client.referrers(subject) is None
    assert (asked(registry), waits) == (1, [])


@pytest.mark.parametrize("status", [200, 404])
def test_a_redirect_to_a_web_site_is_no_api(
    client_of: MakeClient, registry: FakeRegistry, subject: Reference, status: int
) -> None:
    """Registries send paths that they do not know to their web site."""
    with HttpServer("site", lambda _: Reply(status, {"Content-Type": "text/html"}, b"<html></html>")) as site:
        registry.script(faults.faulty(faults.status(302, Location=f"http://{site.host}/login")))
        client = client_of(insecure_registries=frozenset({registry.host, site.host}))
        assert client.referrers(subject) is None


@pytest.mark.parametrize("change", NO_API.values(), ids=NO_API)
def test_a_registry_without_the_api_is_remembered_for_a_while(
    client: RegistryClient,
    registry: FakeRegistry,
    subject: Reference,
    change: faults.Change,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("mirror.registry.referrers.monotonic", lambda: now[0])
    no_api = faults.faulty(change)
    registry.script(no_api)
    others = [replace(subject, digest=Digest.of(b"another")), replace(subject, repository="team/other")]
    assert [client.referrers(each) for each in (subject, *others)] == [None] * 3
    assert asked(registry) == 1
    registry.scripts.remove(no_api)
    now[0] += 600
    assert client.referrers(subject) == ()


@pytest.mark.parametrize("change", FOR_THIS_SUBJECT.values(), ids=FOR_THIS_SUBJECT)
def test_a_refusal_for_one_subject_says_nothing_about_others(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, change: faults.Change
) -> None:
    registry.script(faults.faulty(change, times=2))
    assert [client.referrers(subject) for _ in range(3)] == [None, None, ()]


def test_a_registry_that_sent_a_list_is_never_taken_for_one_without_the_api(
    client: RegistryClient, registry: FakeRegistry, subject: Reference
) -> None:
    """Artifactory has the API for some of its repositories."""
    serve(registry, listed(entry()))
    registry.script(lambda request, _: Reply(404) if "/other/" in request.path else None)
    other = replace(subject, repository="team/other/app")
    assert len(client.referrers(subject) or ()) == 1
    assert client.referrers(other) is None
    assert len(client.referrers(subject) or ()) == 1
    assert client.referrers(other) is None
    assert asked(registry) == 4


def test_another_registry_is_still_asked(client_of: MakeClient, registry: FakeRegistry, app: TestImage) -> None:
    with FakeRegistry(referrers_api=True) as other:
        client = client_of(registry, other)
        assert client.referrers(Reference(registry.host, REPOSITORY, None, app.digest)) is None
        assert client.referrers(Reference(other.host, REPOSITORY, None, app.digest)) == ()


# --- a registry that has the API and fails to list


@pytest.mark.parametrize(
    ("change", "kind", "requests"),
    [
        (faults.status(500), SourceFailed, 4),
        (faults.status(503), SourceFailed, 4),
        (faults.status(503, Retry_After="60"), RateLimited, 1),
        (faults.status(429), RateLimited, 1),
        (faults.status(429, Retry_After="60"), RateLimited, 1),
        (faults.status(403), Denied, 1),
        (faults.status(204), SourceFailed, 1),
        (faults.status(410), SourceFailed, 1),
        (faults.status(418), SourceFailed, 1),
        (faults.hung_up(), SourceUnreachable, 4),
        (faults.cut_after(10), AnswerTruncated, 4),
        (faults.reset_after(10), MirrorError, 4),
    ],
)
def test_a_failure_is_no_empty_list(
    client: RegistryClient,
    registry: FakeRegistry,
    subject: Reference,
    change: faults.Change,
    kind: type[MirrorError],
    requests: int,
) -> None:
    registry.script(faults.faulty(change))
    error = failure(client, subject)
    assert isinstance(error, kind)
    assert asked(registry) == requests
    assert (HINT in error.hint) is not isinstance(error, RateLimited | SourceUnreachable)
    registry.scripts.clear()
    assert client.referrers(subject) == ()


def test_a_failure_that_passes_is_not_noticed(
    client: RegistryClient, registry: FakeRegistry, subject: Reference
) -> None:
    registry.script(faults.faulty(faults.cut_after(10), times=2))
    assert client.referrers(subject) == ()


@pytest.mark.parametrize("logged_in", [False, True])
def test_a_list_that_needs_another_login_is_no_empty_list(
    client_of: MakeClient, registry: FakeRegistry, subject: Reference, config: Path, *, logged_in: bool
) -> None:
    registry.basic = ("admin", "another")
    error = failure(client_of(registry, docker_config=config if logged_in else None), subject)
    assert isinstance(error, Unauthorized)
    assert "MIRROR_DOCKER_CONFIG" in error.hint
    assert error.hint.endswith("signatures and other referrers.")


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", SourceFailed, "is not JSON"),
        (b"404 page not found", SourceFailed, "is not JSON"),
        (listed(entry())[:-2], SourceFailed, "is not JSON"),
        (listed(entry()) + b"x", SourceFailed, "is not JSON"),
        (b'{"manifests": [' + b"[" * 100_000, SourceFailed, "is not JSON"),
        (b"{}", SourceFailed, "no field 'manifests'"),
        (b'{"errors": [{"code": "UNSUPPORTED"}]}', SourceFailed, "no field 'manifests'"),
        (b'{"manifests": {}}', SourceFailed, "is not a list"),
        (b"[]", SourceFailed, "no field 'manifests'"),
        (b'{"manifests": [], "manifests": []}', SourceFailed, "a field twice"),
        (b'{"manifests": [' + b"[]," * 600_000 + b"[]]}", SourceFailed, "more than 500000 values"),
        (listed(entry(), "sha256:0"), ManifestInvalid, "manifests[1] is not a descriptor"),
        (listed(entry(), entry(1, digest="sha256:0")), ManifestInvalid, "manifests[1] has a malformed"),
        (listed(entry(mediaType=None)), ManifestInvalid, "no mediaType"),
        (listed(entry(size=2**50)), SizeInvalid, "should have 0 to"),
        (listed(*map(entry, range(1001))), ListingTooLarge, "more than 1000 entries"),
        (listed(entry(annotations={"a": "x" * 2**22})), AnswerTooLarge, "more than 4194304 bytes"),
    ],
)
def test_a_damaged_list_is_no_empty_list(
    client: RegistryClient,
    registry: FakeRegistry,
    subject: Reference,
    body: bytes,
    kind: type[MirrorError],
    reason: str,
) -> None:
    serve(registry, body)
    error = failure(client, subject)
    assert isinstance(error, kind)
    assert reason in error.message
    assert HINT in error.hint
    assert asked(registry) == 1


def test_a_list_of_1000_entries_is_read(client: RegistryClient, registry: FakeRegistry, subject: Reference) -> None:
    serve(registry, listed(*map(entry, range(1000))))
    assert len(client.referrers(subject) or ()) == 1000


def test_the_bytes_of_all_pages_are_bounded(client: RegistryClient, registry: FakeRegistry, subject: Reference) -> None:
    pages = [listed(entry(n, annotations={"a": "x" * 3_000_000})) for n in range(4)]
    serve(registry, *pages, link=lambda number: f"</v2/x?page={number}>; rel=next")
    error = failure(client, subject)
    assert isinstance(error, ListingTooLarge)
    assert "more than 8388608 bytes" in error.message
    assert asked(registry) == 3


@pytest.mark.parametrize("change", [*NO_API.values(), *FOR_THIS_SUBJECT.values(), faults.status(500)])
def test_a_list_that_ends_after_its_first_page_is_cut_off(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, change: faults.Change
) -> None:
    serve(registry, listed(entry()), link=lambda _: "</v2/x?page=2>; rel=next")
    later = faults.faulty(change)
    registry.script(lambda request, reply: later(request, reply) if "page" in request.query else None)
    error = failure(client, subject)
    assert isinstance(error, SourceFailed)
    assert HINT in error.hint


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (lambda _: "<https://evil.example/v2/x?p=1>; rel=next", "another origin"),
        (lambda _: "</v2/x>; rel=next", "names no page"),
        (lambda _: "/v2/x?p=1; rel=next", "cannot be understood"),
        (lambda number: f"</v2/x?p={number}>; rel=next", "the same page"),
        (lambda number: f"</v2/x?p={number % 2}>; rel=next", "lead in a circle"),
    ],
)
def test_pages_that_lead_astray_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, link: Callable[[int], str], reason: str
) -> None:
    bodies = [listed(entry())] * 5 if "same" in reason else [listed(entry(n)) for n in range(5)]
    serve(registry, *bodies, link=link)
    error = failure(client, subject)
    assert isinstance(error, SourceFailed)
    assert reason in error.message


# --- the list of tags


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


# --- one tag


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
