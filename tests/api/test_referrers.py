"""Referrers, which are all that the repository has under the subject's fallback tag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.settings import Settings
from mirror.storage import layout
from mirror.wiring import Core
from service.app import create_app
from service.core import Service
from service.v2.referrer_entries import READ_SECONDS, ReferrerEntries
from tests.api.seeded_catalog import JOB, SeededCatalog
from tests.support import images
from tests.support.fakes.sockets import RefusingRedis
from tests.support.images import TestImage
from tests.support.referrer_set import KIND, REPOSITORY, ReferrerSet
from tests.support.servers.process import free_port

SIGNATURE, SBOM = "application/vnd.example.signature", "application/vnd.example.sbom"
UNKNOWN = f"sha256:{'0' * 64}"


def listing(*entries: dict[str, object], children: tuple[TestImage, ...] = ()) -> TestImage:
    """Make the index of a fallback tag."""
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}).encode()
    return TestImage(body, media_types.OCI_INDEX, children={child.digest: child for child in children})


def listed(response: TestResponse) -> list[dict[str, object]]:
    assert (response.status_code, response.content_type) == (200, media_types.OCI_INDEX)
    document = response.get_json(force=True)
    assert (document["schemaVersion"], document["mediaType"]) == (2, media_types.OCI_INDEX)
    found: list[dict[str, object]] = document["manifests"]
    return found


def annotated(artifact: TestImage, annotations: dict[str, str]) -> TestImage:
    """Return *artifact* with annotations in its manifest."""
    body = json.dumps({**json.loads(artifact.body), "annotations": annotations}).encode()
    return replace(artifact, body=body)


def refused(response: TestResponse) -> tuple[int, str]:
    assert response.content_type == "application/json"
    [error] = response.get_json()["errors"]
    return response.status_code, error["code"]


@pytest.fixture
def subject(mirror: SeededCatalog) -> TestImage:
    made = images.three_platforms("signed")
    mirror.hold(made, "team/app:1")
    return made


@pytest.fixture
def entries(mirror: SeededCatalog, subject: TestImage) -> list[dict[str, object]]:
    """The entries of a signature and an SBOM of *subject*, which the mirror has copied with the fallback tag."""
    made = [images.artifact(kind, kind.encode(), subject=subject) for kind in (SIGNATURE, SBOM)]
    entries = [{**one.descriptor, "artifactType": kind} for one, kind in zip(made, (SIGNATURE, SBOM), strict=True)]
    entries[0]["annotations"] = {"org.example": "ü"}
    mirror.hold(listing(*entries, children=tuple(made)), f"team/app:sha256-{subject.digest.hex}")
    return entries


def test_the_fallback_tag_is_the_list_of_referrers(
    anyone: FlaskClient, subject: TestImage, entries: list[dict[str, object]]
) -> None:
    get = anyone.get(f"/v2/team/app/referrers/{subject.digest}")
    assert listed(get) == entries
    assert "OCI-Filters-Applied" not in get.headers
    head = anyone.head(f"/v2/team/app/referrers/{subject.digest}")
    varying = {"X-Request-Id", "Date"}
    assert head.data == b""
    assert {k: v for k, v in head.headers if k not in varying} == {k: v for k, v in get.headers if k not in varying}


@pytest.mark.parametrize(("kind", "found"), [(SIGNATURE, [0]), (SBOM, [1]), ("other/type", []), (SIGNATURE[:-1], [])])
def test_a_filter_leaves_one_type(
    anyone: FlaskClient, subject: TestImage, entries: list[dict[str, object]], kind: str, found: list[int]
) -> None:
    response = anyone.get(f"/v2/team/app/referrers/{subject.digest}", query_string={"artifactType": kind})
    assert listed(response) == [entries[number] for number in found]
    assert response.headers["OCI-Filters-Applied"] == "artifactType"


def test_an_empty_filter_is_none(anyone: FlaskClient, subject: TestImage, entries: list[dict[str, object]]) -> None:
    response = anyone.get(f"/v2/team/app/referrers/{subject.digest}?artifactType=")
    assert listed(response) == entries
    assert "OCI-Filters-Applied" not in response.headers


def test_a_list_with_an_entry_of_unknown_type_is_not_filtered(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage
) -> None:
    """The entry may be the signature that the client looks for. A client filters by itself without the header."""
    signature = images.artifact(SIGNATURE, b"not copied", subject=subject)
    mirror.hold(listing(signature.descriptor), f"team/app:sha256-{subject.digest.hex}")
    response = anyone.get(f"/v2/team/app/referrers/{subject.digest}", query_string={"artifactType": SIGNATURE})
    assert listed(response) == [signature.descriptor]
    assert "OCI-Filters-Applied" not in response.headers


@pytest.mark.parametrize("stated", [{}, {"artifactType": ""}, {"artifactType": images.EMPTY_CONFIG}])
def test_an_entry_without_its_type_is_completed_from_its_manifest(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage, stated: dict[str, object]
) -> None:
    """GHCR lists the type of the empty config for every referrer."""
    signature = annotated(images.artifact(SIGNATURE, b"signed", subject=subject), {"org.example": "from the manifest"})
    chart = images.image(images.layer("chart"))
    nested = images.index((None, chart))
    entries = [
        {**signature.descriptor, **stated},
        {**chart.descriptor, **stated, "annotations": {"org.example": "from the list"}},
        {**nested.descriptor, **stated},
    ]
    mirror.hold(listing(*entries, children=(signature, chart, nested)), f"team/app:sha256-{subject.digest.hex}")
    url = f"/v2/team/app/referrers/{subject.digest}"
    completed = [
        {**signature.descriptor, "artifactType": SIGNATURE, "annotations": {"org.example": "from the manifest"}},
        {**chart.descriptor, "artifactType": images.OCI_CONFIG, "annotations": {"org.example": "from the list"}},
        {**nested.descriptor, **stated},
    ]
    assert listed(anyone.get(url)) == completed
    for kind, found in ((SIGNATURE, completed[:1]), (images.OCI_CONFIG, completed[1:2]), (SBOM, [])):
        response = anyone.get(url, query_string={"artifactType": kind})
        assert (listed(response), response.headers["OCI-Filters-Applied"]) == (found, "artifactType")


def test_a_request_reads_a_bounded_number_of_manifests_and_the_next_one_the_rest(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.v2.referrer_entries.MOST_READ", 2)
    made = [images.artifact(SIGNATURE, str(number).encode(), subject=subject) for number in range(5)]
    untyped = listing(*(one.descriptor for one in made), children=tuple(made))
    mirror.hold(untyped, f"team/app:sha256-{subject.digest.hex}")
    url = f"/v2/team/app/referrers/{subject.digest}?artifactType={SIGNATURE}"
    for known in (2, 4, 5):
        response = anyone.get(url)
        assert [entry.get("artifactType") for entry in listed(response)] == [SIGNATURE] * known + [None] * (5 - known)
        assert ("OCI-Filters-Applied" in response.headers) == (known == 5)


def test_a_request_stops_reading_manifests_in_time(service: Service, mirror: SeededCatalog, subject: TestImage) -> None:
    made = [images.artifact(SIGNATURE, str(number).encode(), subject=subject) for number in range(3)]
    mirror.hold(listing(children=tuple(made)), "team/app:list")
    times = iter((0.0, 0.0, READ_SECONDS, READ_SECONDS))
    entries, are_typed = ReferrerEntries(service.pulls, lambda: next(times)).completed(
        "team/app", [one.descriptor for one in made]
    )
    assert ([entry.get("artifactType") for entry in entries], are_typed) == ([SIGNATURE, None, None], False)


def test_a_manifest_that_only_another_repository_holds_completes_nothing(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage
) -> None:
    signature = images.artifact(SIGNATURE, b"signed", subject=subject)
    mirror.hold(signature, "secret/app:1")
    mirror.hold(listing(signature.descriptor), f"secret/app:sha256-{subject.digest.hex}")
    mirror.hold(listing(signature.descriptor), f"team/app:sha256-{subject.digest.hex}")
    complete = {**signature.descriptor, "artifactType": SIGNATURE}
    assert listed(anyone.get(f"/v2/secret/app/referrers/{subject.digest}")) == [complete]
    assert listed(anyone.get(f"/v2/team/app/referrers/{subject.digest}")) == [signature.descriptor]


def test_pages_are_linked_and_go_on_where_they_ended_whatever_is_added_or_filtered(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage
) -> None:
    kinds = [SIGNATURE, SBOM, SIGNATURE, SIGNATURE, SBOM]
    entries: list[dict[str, object]] = [
        {**images.artifact(kind, str(number).encode()).descriptor, "artifactType": kind}
        for number, kind in enumerate(kinds)
    ]
    tag = f"docker.io/library/redis:sha256-{subject.digest.hex}"
    mirror.hold(listing(*entries), tag)
    url = f"/v2/library/redis/referrers/{subject.digest}?ns=docker.io"
    assert read_pages(anyone, f"{url}&n=2") == [entries[:2], entries[2:4], entries[4:]]
    assert read_pages(anyone, f"{url}&n=5") == read_pages(anyone, url) == [entries]
    signatures = [entry for entry in entries if entry["artifactType"] == SIGNATURE]
    assert read_pages(anyone, f"{url}&n=2&artifactType={SIGNATURE}") == [signatures[:2], signatures[2:]]
    assert read_pages(anyone, f"{url}&n={'9' * 5000}") == [entries]
    first = anyone.get(f"{url}&n=4")
    more = [{**images.artifact(SBOM, b"more").descriptor, "artifactType": SBOM}]
    mirror.hold(listing(*entries, *more), tag)
    assert read_pages(anyone, next_page(first)) == [entries[4:] + more]
    mirror.hold(listing(*more), tag)
    assert read_pages(anyone, next_page(first)) == [more], "a new list is read from its beginning"


def read_pages(client: FlaskClient, url: str | None) -> list[list[dict[str, object]]]:
    pages = []
    while url is not None:
        response = client.get(url)
        pages.append(listed(response))
        url = next_page(response)
    return pages


def next_page(response: TestResponse) -> str | None:
    if (link := response.headers.get("Link")) is None:
        return None
    url, _, relation = link.partition("; ")
    assert relation == 'rel="next"'
    return url.strip("<>")


def test_a_referrer_that_was_not_copied_is_still_listed(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage
) -> None:
    signature = images.artifact(SIGNATURE, b"not copied", subject=subject)
    entry = {**signature.descriptor, "artifactType": SIGNATURE}
    mirror.hold(listing(entry), f"team/app:sha256-{subject.digest.hex}")
    assert listed(anyone.get(f"/v2/team/app/referrers/{subject.digest}")) == [entry]
    assert anyone.get(f"/v2/team/app/manifests/{signature.digest}").status_code == 404


def test_the_fallback_tag_of_a_sha512_digest_is_cut(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    digest = Digest.of(b"signed", "sha512")
    entry = {**images.artifact(SIGNATURE, b"signed").descriptor, "artifactType": SIGNATURE}
    mirror.hold(listing(entry), f"team/app:sha512-{digest.hex[:64]}")
    assert listed(anyone.get(f"/v2/team/app/referrers/{digest}")) == [entry]


@pytest.mark.parametrize("path", [f"team/app/referrers/{UNKNOWN}", f"team/none/referrers/{UNKNOWN}"])
def test_nothing_refers_to_what_is_not_known(anyone: FlaskClient, subject: TestImage, path: str) -> None:
    assert listed(anyone.get(f"/v2/{path}")) == []


def test_another_repository_has_its_own_referrers(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage, entries: list[dict[str, object]]
) -> None:
    mirror.hold(subject, "team/other:1")
    assert listed(anyone.get(f"/v2/team/other/referrers/{subject.digest}")) == []


def test_an_image_under_the_fallback_tag_lists_nothing(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage
) -> None:
    mirror.hold(images.image(images.layer("one")), f"team/app:sha256-{subject.digest.hex}")
    assert listed(anyone.get(f"/v2/team/app/referrers/{subject.digest}")) == []


def test_malformed_input_is_400_and_never_404(anyone: FlaskClient, subject: TestImage) -> None:
    """404 would say that the registry has no such API, and the client would use the fallback tag."""
    for path, code in (
        ("team/app/referrers/7", "DIGEST_INVALID"),
        (f"team/app/referrers/sha256-{subject.digest.hex}", "DIGEST_INVALID"),
        (f"Team/app/referrers/{UNKNOWN}", "NAME_INVALID"),
        (f"referrers/{UNKNOWN}", "NAME_INVALID"),
        (f"team/app/referrers/{UNKNOWN}?artifactType=a&artifactType=b", "REQUEST_INVALID"),
        (f"team/app/referrers/{UNKNOWN}?n=1&n=2", "REQUEST_INVALID"),
        (f"team/app/referrers/{UNKNOWN}?n=-1", "PAGINATION_NUMBER_INVALID"),
        (f"team/app/referrers/{UNKNOWN}?n=0", "PAGINATION_NUMBER_INVALID"),
        (f"team/app/referrers/{UNKNOWN}?last=7", "DIGEST_INVALID"),
    ):
        assert refused(anyone.get(f"/v2/{path}")) == (400, code), path


@pytest.mark.parametrize("repository", ["referrers", "team/referrers/app", "tags/list/referrers"])
def test_a_repository_may_be_called_referrers(anyone: FlaskClient, mirror: SeededCatalog, repository: str) -> None:
    made = images.image(images.layer("one"))
    mirror.hold(made, f"{repository}:1")
    assert listed(anyone.get(f"/v2/{repository}/referrers/{made.digest}")) == []
    assert anyone.get(f"/v2/{repository}/manifests/1").data == made.body
    assert refused(anyone.get("/v2/Team/referrers/manifests/1")) == (404, "NAME_INVALID")


@pytest.mark.parametrize(
    ("path", "namespace"),
    [("library/redis", "docker.io"), ("docker.io/library/redis", "docker.io"), ("library/redis", None)],
)
def test_referrers_are_found_by_the_names_that_nodes_use(
    anyone: FlaskClient, mirror: SeededCatalog, subject: TestImage, path: str, namespace: str | None
) -> None:
    entry = {**images.artifact(SIGNATURE, b"signed").descriptor, "artifactType": SIGNATURE}
    mirror.hold(listing(entry), f"docker.io/library/redis:sha256-{subject.digest.hex}")
    mirror.hold(subject, "library/other:1")
    response = anyone.get(f"/v2/{path}/referrers/{subject.digest}", query_string={"ns": namespace} if namespace else {})
    assert listed(response) == [entry]
    assert response.headers.get("OCI-Namespace") == namespace
    elsewhere = anyone.get(f"/v2/library/redis/referrers/{subject.digest}?ns=quay.io")
    assert listed(elsewhere) == []


@pytest.mark.parametrize("lost", ["content", "link"])
def test_a_list_that_is_lost_is_an_error_and_not_empty(
    anyone: FlaskClient, core: Core, subject: TestImage, entries: list[dict[str, object]], lost: str
) -> None:
    digest = core.links.current("team/app", f"sha256-{subject.digest.hex}")
    assert digest is not None
    key = layout.blob_key(digest) if lost == "content" else layout.revision_link_key("team/app", digest)
    core.bucket.delete([key])
    assert refused(anyone.get(f"/v2/team/app/referrers/{subject.digest}")) == (500, "STORAGE_DAMAGED")


@pytest.fixture
def without_s3(api_settings: Settings) -> Iterator[FlaskClient]:
    """A service whose S3 refuses connections."""
    away = Service.connect(replace(api_settings, s3_endpoint=f"http://127.0.0.1:{free_port()}"))
    yield create_app(away).test_client()
    away.close()


def test_without_s3_there_is_no_list(without_s3: FlaskClient) -> None:
    assert refused(without_s3.get(f"/v2/team/app/referrers/{UNKNOWN}")) == (503, "STORAGE_UNAVAILABLE")


def test_without_redis_the_list_is_read_from_s3(
    api_settings: Settings, subject: TestImage, entries: list[dict[str, object]]
) -> None:
    with RefusingRedis("LOADING Redis is loading the dataset in memory") as server:
        service = Service.connect(replace(api_settings, redis_url=server.url))
        response = create_app(service).test_client().get(f"/v2/team/app/referrers/{subject.digest}")
        assert listed(response) == entries
        service.close()


def test_what_the_mirror_lists_is_served_and_shown_as_an_image(
    anyone: FlaskClient, api: FlaskClient, core: Core, mirror: SeededCatalog
) -> None:
    signed = ReferrerSet.of(core, 2)
    signed.add(0, by=JOB)
    signed.add(1, by=JOB)
    url = f"/v2/{REPOSITORY}/referrers/{signed.subject.digest}"
    assert listed(anyone.get(url)) == [{**one.descriptor, "artifactType": KIND} for one in signed.artifacts]
    image = api.get(f"/v1/images/{signed.target}").get_json()
    assert (image["digest"], image["source"], image["job"]) == (str(core.reader.digest(signed.target)), None, JOB)
    assert len(image["images"]) == 2
    assert api.get(f"/v1/images?tag={signed.target.tag}").get_json()["items"][0]["source"] is None
