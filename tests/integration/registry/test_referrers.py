"""The referrers API of a scripted registry, and registries without it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX, OCI_MANIFEST
from mirror.oci.reference import Reference
from mirror.oci.referrer import EMPTY_TYPE
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import REPOSITORY, MakeClient
from tests.integration.registry.scripted_referrers import (
    BUNDLE,
    FOR_THIS_SUBJECT,
    NO_API,
    SIGNATURES,
    asked,
    entry,
    listed,
    serve,
)
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Tokens
from tests.support.fakes.server import HttpServer
from tests.support.images import TestImage, artifact, image, layer


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
