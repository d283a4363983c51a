"""The checks of the OCI conformance suites for pulling and content discovery, as far as they fit here.

The suites themselves run by ``tests/conformance/run``. They need Go. These checks are the same, against the running
service, with content that is written as a worker writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
import urllib3

from mirror.oci import media_types
from mirror.oci.digest import Digest
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.conformance.pushing_proxy import PushedContent
from tests.support.images import EMPTY_CONFIG, OCI_CONFIG, OCI_LAYER

REPOSITORY: Final = "conformance/subset"
UNKNOWN: Final = str(Digest.of(b"hello world"))
ACCEPT: Final = {"Accept": f"{media_types.OCI_INDEX}, {media_types.OCI_MANIFEST}"}
CONFIG: Final = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}'
LAYER: Final = bytes(range(256)) * 8
BLOBS: Final = {"a layer": LAYER, "a config": CONFIG, "empty": b"", "empty JSON": b"{}"}
BUTTER, JAM, STAND = "application/vnd.nhl.butter", "application/vnd.nba.jam", "application/vnd.food.stand"

Ask = Callable[..., urllib3.BaseHTTPResponse]


@dataclass(frozen=True, slots=True)
class Held:
    """A manifest or an index that the mirror holds."""

    body: bytes
    media_type: str
    algorithm: str = "sha256"

    @property
    def digest(self) -> Digest:
        return Digest.of(self.body, self.algorithm)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": len(self.body)}


def blob(media_type: str, content: bytes, *, algorithm: str = "sha256", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content, algorithm)), "size": len(content), **more}


def manifest(**fields: Any) -> Held:
    """Make an OCI manifest of the config and one layer. *fields* replace and add fields."""
    layers = [blob(OCI_LAYER, LAYER)]
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": blob(OCI_CONFIG, CONFIG)}
    return Held(json.dumps({**document, "layers": layers, **fields}, indent=2).encode(), media_types.OCI_MANIFEST)


def artifact(artifact_type: str, **fields: Any) -> Held:
    empty = blob(EMPTY_CONFIG, b"{}")
    return manifest(artifactType=artifact_type, config=empty, layers=[blob(artifact_type, LAYER)], **fields)


def index(*children: Held, **fields: Any) -> Held:
    entries = [child.descriptor for child in children]
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries, **fields}
    return Held(json.dumps(document).encode(), media_types.OCI_INDEX)


IMAGE: Final = manifest()
FOREIGN: Final = blob(
    "application/vnd.oci.image.layer.nondistributable.v1.tar", b"never pushed", urls=["https://x.example"]
)
SHA512: Final = Held(
    manifest(
        config=blob(OCI_CONFIG, CONFIG, algorithm="sha512"), layers=[blob(OCI_LAYER, LAYER, algorithm="sha512")]
    ).body,
    media_types.OCI_MANIFEST,
    "sha512",
)
KINDS: Final[Mapping[str, tuple[Held, ...]]] = {
    "image": (IMAGE,),
    "no-layers": (manifest(layers=[]),),
    "data-field": (manifest(config=blob(OCI_CONFIG, b"{}", data="e30=")),),
    "custom-fields": (manifest(**{"org.example": [1, {"a": None}], "annotations": {"b": "ü"}}),),
    "non-distributable": (manifest(layers=[blob(OCI_LAYER, LAYER), FOREIGN]),),
    "artifact": (artifact(BUTTER),),
    "large-manifest": (manifest(annotations={"large": "x" * 1_000_000}),),
    "index": (IMAGE, index(IMAGE)),
    "nested-index": (IMAGE, index(IMAGE), index(index(IMAGE), IMAGE)),
    "empty-index": (index(),),
    "artifact-index": (artifact(BUTTER), artifact(JAM), index(artifact(BUTTER), artifact(JAM), artifactType=STAND)),
    "sha512": (SHA512,),
}
"""The kinds of content of the suite on the main branch. Children come before their index."""


@pytest.fixture
def ask(live: LiveService) -> Iterator[Ask]:
    """Send a request below ``/v2/<repository>/``, or to an absolute path."""
    with urllib3.PoolManager(retries=False, timeout=20) as pool:

        def ask(method: str, path: str, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
            url = f"{live.url}{path}" if path.startswith("/") else f"{live.url}/v2/{REPOSITORY}/{path}"
            return pool.request(method, url, headers=headers, decode_content=False)

        yield ask


@pytest.fixture
def pushed(live_mirror: SeededCatalog) -> PushedContent:
    """The mirror's content, with the blobs of all manifests."""
    content = PushedContent(live_mirror.core)
    for algorithm in ("sha256", "sha512"):
        for one in BLOBS.values():
            content.store_blob(REPOSITORY, Digest.of(one, algorithm), one)
    return content


def publish(pushed: PushedContent, held: Held, reference: str | None = None, *tags: str) -> None:
    pushed.publish(REPOSITORY, reference or str(held.digest), held.body, held.media_type, tags)


def test_the_registry_is_found(ask: Ask) -> None:
    assert ask("GET", "/v2/").status == 200


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("digest", [UNKNOWN, str(Digest.of(b"hello world", "sha512"))])
def test_an_unknown_blob_is_404(ask: Ask, method: str, digest: str) -> None:
    assert ask(method, f"blobs/{digest}").status == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("name", BLOBS)
def test_a_blob_is_served(ask: Ask, pushed: PushedContent, name: str, algorithm: str) -> None:
    content, digest = BLOBS[name], str(Digest.of(BLOBS[name], algorithm))
    for method, body in (("HEAD", b""), ("GET", content)):
        response = ask(method, f"blobs/{digest}")
        assert (response.status, response.data) == (200, body)
        assert response.headers["Content-Length"] == str(len(content))
        assert response.headers["Docker-Content-Digest"] == digest


RANGES = [
    ("bytes=500-1499", "500-1499"),
    ("bytes=500-", "500-2047"),
    ("bytes=-500", "1548-2047"),
    ("bytes=2000-5000", "2000-2047"),
]


@pytest.mark.parametrize(("asked", "sent"), RANGES)
def test_a_range_of_a_blob_is_served(ask: Ask, pushed: PushedContent, asked: str, sent: str) -> None:
    first, last = map(int, sent.split("-"))
    response = ask("GET", f"blobs/{Digest.of(LAYER)}", {"Range": asked})
    assert (response.status, response.data) == (206, LAYER[first : last + 1])
    assert response.headers["Content-Length"] == str(last + 1 - first)
    assert response.headers["Content-Range"] == f"bytes {sent}/2048"


@pytest.mark.parametrize("asked", ["bytes=500-0", "bytes=5000-10000"])
def test_a_range_without_a_byte_of_the_blob_is_416(ask: Ask, pushed: PushedContent, asked: str) -> None:
    assert ask("GET", f"blobs/{Digest.of(LAYER)}", {"Range": asked}).status == 416


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("reference", [".INVALID_MANIFEST_NAME", "missing-tag", UNKNOWN])
def test_an_unknown_manifest_is_404(ask: Ask, pushed: PushedContent, method: str, reference: str) -> None:
    publish(pushed, IMAGE, "1")
    assert ask(method, f"manifests/{reference}", ACCEPT).status == 404


@pytest.mark.parametrize("reference", ["sha256:totallywrong", "sha256:baddigeststring"])
def test_a_malformed_digest_is_an_error_of_the_spec(ask: Ask, pushed: PushedContent, reference: str) -> None:
    response = ask("GET", f"manifests/{reference}", ACCEPT)
    assert (response.status, [error["code"] for error in response.json()["errors"]]) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_content_is_served_byte_for_byte(ask: Ask, pushed: PushedContent, kind: str) -> None:
    for number, held in enumerate(KINDS[kind]):
        tag = f"{kind}-{number}"
        publish(pushed, held, None, tag)
        for reference in (tag, str(held.digest)):
            for method, body in (("HEAD", b""), ("GET", held.body)):
                response = ask(method, f"manifests/{reference}", ACCEPT)
                assert (response.status, response.data) == (200, body)
                assert response.headers["Content-Type"] == held.media_type
                assert response.headers["Content-Length"] == str(len(held.body))
                assert response.headers["Docker-Content-Digest"] == str(held.digest)


def tags(response: urllib3.BaseHTTPResponse) -> list[str]:
    assert response.status == 200
    found: list[str] = response.json()["tags"]
    return found


def test_tags_are_listed_in_pages(ask: Ask, pushed: PushedContent) -> None:
    assert ask("GET", "/v2/conformance/never-mirrored/tags/list").status == 404
    publish(pushed, IMAGE, None, "test0", "test1", "test2", "test3")
    whole = tags(ask("GET", "tags/list"))
    assert whole == ["test0", "test1", "test2", "test3"]
    half = tags(ask("GET", "tags/list?n=2"))
    assert half == whole[:2]
    assert tags(ask("GET", f"tags/list?n=2&last={half[-1]}")) == whole[2:]
    assert tags(ask("GET", f"tags/list?last={half[-1]}")) == whole[2:]


def referrers(response: urllib3.BaseHTTPResponse) -> list[dict[str, Any]]:
    """Return the entries of an answer that every client understands."""
    assert (response.status, response.headers["Content-Type"]) == (200, media_types.OCI_INDEX)
    document = response.json()
    assert (document["schemaVersion"], document["mediaType"]) == (2, media_types.OCI_INDEX)
    found: list[dict[str, Any]] = document["manifests"]
    return found


@pytest.mark.parametrize("repository", [REPOSITORY, "conformance/never-mirrored"])
def test_nothing_refers_to_an_unknown_digest(ask: Ask, repository: str) -> None:
    assert referrers(ask("GET", f"/v2/{repository}/referrers/{UNKNOWN}")) == []


def entry(held: Held, artifact_type: str, note: str) -> dict[str, Any]:
    return {**held.descriptor, "artifactType": artifact_type, "annotations": {"note": note}}


def test_referrers_are_listed_and_filtered_by_their_type(ask: Ask, pushed: PushedContent) -> None:
    subject = manifest(annotations={"subject": "held"})
    about = {"subject": subject.descriptor}
    signature = artifact(BUTTER, **about, annotations={"note": "signature"})
    by_config = manifest(config=blob(JAM, CONFIG), **about, annotations={"note": "config"})
    listing = index(signature, **about, artifactType=STAND, annotations={"note": "index"})
    expected = [
        entry(signature, BUTTER, "signature"),
        entry(by_config, JAM, "config"),
        entry(listing, STAND, "index"),
    ]
    for held in (signature, by_config, subject, listing):
        publish(pushed, held)
    assert referrers(ask("GET", f"referrers/{subject.digest}")) == expected
    for kind, wanted in ((BUTTER, expected[:1]), (JAM, expected[1:2]), (STAND, expected[2:]), ("other/type", [])):
        response = ask("GET", f"referrers/{subject.digest}?artifactType={kind}")
        assert referrers(response) == wanted
        assert response.headers["OCI-Filters-Applied"] == "artifactType"
    for one in expected:
        assert ask("GET", f"manifests/{one['digest']}", ACCEPT).status == 200


def test_referrers_of_a_subject_that_was_never_pushed_are_listed(ask: Ask, pushed: PushedContent) -> None:
    subject = manifest(annotations={"subject": "absent"})
    signature = artifact(JAM, subject=subject.descriptor)
    publish(pushed, signature)
    assert ask("GET", f"manifests/{subject.digest}", ACCEPT).status == 404
    assert [one["digest"] for one in referrers(ask("GET", f"referrers/{subject.digest}"))] == [str(signature.digest)]
