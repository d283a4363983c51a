"""Links, kept digests and provenance: on every S3 server, and as a stock registry reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3

from mirror.errors import StorageDamaged
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.verification import verify
from mirror.storage import layout
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import Bucket
from mirror.storage.links import KeptStore, LinkStore
from mirror.storage.provenance import MOST_SUMMARISED, ImageProvenance, ImageSummary, ProvenanceStore
from tests.support.servers import DockerRegistry, S3Server, S3Storage

ONE, TWO = Digest.of(b"one"), Digest.of(b"two", "sha512")


@pytest.fixture
def links(bucket: Bucket) -> LinkStore:
    return LinkStore(bucket)


def test_a_link_holds_its_digest_and_nothing_else(links: LinkStore, bucket: Bucket) -> None:
    links.link_layer("team/app", ONE)
    links.link_revision("team/app", TWO)
    links.add_to_history("team/app", "7", ONE, timeout=10)
    links.set_current("team/app", "7", ONE, timeout=10)
    written = {key: bucket.read(key, 500) for key in bucket.keys("")}
    assert written == {
        layout.layer_link_key("team/app", ONE): str(ONE).encode(),
        layout.revision_link_key("team/app", TWO): str(TWO).encode(),
        layout.tag_history_key("team/app", "7", ONE): str(ONE).encode(),
        layout.tag_current_key("team/app", "7"): str(ONE).encode(),
    }


def test_a_link_is_valid_in_its_own_repository_only(links: LinkStore) -> None:
    links.link_layer("team/app", ONE)
    links.link_revision("team/app", TWO)
    assert links.has_layer("team/app", ONE)
    assert links.has_revision("team/app", TWO)
    assert not links.has_layer("team/app", TWO)
    assert not links.has_layer("team", ONE)
    assert not links.has_revision("team/app/more", TWO)


def history(bucket: Bucket, repository: str, tag: str) -> list[Digest]:
    """Return every digest in the tag's history."""
    keys = bucket.keys(layout.tag_history_prefix(repository, tag))
    return sorted(found[2] for key in keys if (found := layout.parse_tag_history(key)))


def test_a_tag_points_at_what_was_set_last_and_keeps_its_history(links: LinkStore, bucket: Bucket) -> None:
    assert links.current("team/app", "7") is None
    assert history(bucket, "team/app", "7") == []
    for digest in (ONE, TWO):
        links.add_to_history("team/app", "7", digest, timeout=10)
        links.set_current("team/app", "7", digest, timeout=10)
    assert links.current("team/app", "7") == TWO
    assert history(bucket, "team/app", "7") == sorted([ONE, TWO])


def test_deleting_a_tag_deletes_its_history_and_no_other_tag(links: LinkStore, bucket: Bucket) -> None:
    for tag in ("7", "7.1"):
        links.add_to_history("team/app", tag, ONE, timeout=10)
        links.set_current("team/app", tag, ONE, timeout=10)
    for _ in range(2):
        links.delete_tag("team/app", "7", timeout=10)
        links.delete_history("team/app", "7")
    assert links.current("team/app", "7") is None
    assert history(bucket, "team/app", "7") == []
    assert links.current("team/app", "7.1") == ONE
    assert history(bucket, "team/app", "7.1") == [ONE]
    assert tags_in(links) == {("team/app", "7.1"): ONE}


def tags_in(links: LinkStore) -> dict[tuple[str, str], Digest | None]:
    """Return every tag with its digest, from the listing or else from its link."""
    return {
        (repository.name, tag): digest or links.current(repository.name, tag)
        for repository in links.repositories()
        for tag, digest in repository.tags.items()
    }


def test_every_tag_of_nested_repositories_is_listed_with_its_digest(links: LinkStore, bucket: Bucket) -> None:
    expected = {("team", "7"), ("team/app", "7"), ("team/app", "latest"), ("docker.io/library/redis", "current")}
    for repository, tag in expected:
        links.add_to_history(repository, tag, ONE, timeout=10)
        links.set_current(repository, tag, ONE, timeout=10)
        links.link_layer(repository, ONE)
    links.add_to_history("team/app", "deleted", ONE, timeout=10)
    links.link_revision("team", ONE)
    links.link_revision("without/tags", ONE)
    bucket.put("docker/registry/v2/repositories/UPPER/_manifests/tags/7/current/link", b"")
    assert tags_in(links) == dict.fromkeys(expected, ONE)
    revisions = {repository.name: repository.revisions for repository in links.repositories()}
    assert revisions == {"team": {ONE}, "team/app": frozenset(), "docker.io/library/redis": frozenset()}


def test_a_tag_that_has_moved_is_listed_with_the_digest_it_shows(links: LinkStore) -> None:
    for digest in (ONE, TWO, ONE):
        links.add_to_history("team/app", "7", digest, timeout=10)
        links.set_current("team/app", "7", digest, timeout=10)
    assert tags_in(links) == {("team/app", "7"): ONE}


def test_a_link_without_history_is_not_proven_by_the_listing(links: LinkStore) -> None:
    """Another tool wrote it, or a person: its history does not prove what it shows."""
    links.add_to_history("team/app", "7", ONE, timeout=10)
    links.set_current("team/app", "7", TWO, timeout=10)
    links.set_current("team/app", "8", TWO, timeout=10)
    digests = {tag: digest for repository in links.repositories() for tag, digest in repository.tags.items()}
    assert digests == {"7": None, "8": None}


def test_a_link_with_a_newline_is_read_and_one_with_anything_else_is_damaged(links: LinkStore, bucket: Bucket) -> None:
    key = layout.tag_current_key("team/app", "7")
    bucket.put(key, f"{ONE}\n".encode())
    assert links.current("team/app", "7") == ONE
    for damage in (b"", b"sha256:12", b"\xff\xfe", f"{ONE}\n\n".encode(), f" {ONE}".encode(), b"x" * 300):
        bucket.put(key, damage)
        with pytest.raises(StorageDamaged, match=r"team/app/_manifests/tags/7/current/link"):
            links.current("team/app", "7")


def test_a_digest_is_kept_until_it_is_released(bucket: Bucket) -> None:
    kept = KeptStore(bucket)
    for repository in ("team", "team/app"):
        kept.keep(repository, ONE)
        kept.keep(repository, ONE)
    assert kept.is_kept("team/app", ONE)
    assert not kept.is_kept("team/app", TWO)
    assert set(bucket.keys("")) == {layout.kept_key("team", ONE), layout.kept_key("team/app", ONE)}
    kept.unkeep("team", ONE)
    kept.unkeep("team", ONE)
    assert set(bucket.keys("")) == {layout.kept_key("team/app", ONE)}


def test_the_last_record_of_where_an_image_came_from_is_read(bucket: Bucket) -> None:
    provenance = ProvenanceStore(bucket)
    first = ImageProvenance("docker.io/library/redis:7", ONE, "2026-11-23T20:00:00Z", "job_01")
    second = ImageProvenance("docker.io/library/redis:7.4", ONE, "2026-11-24T20:00:00Z", "job_02")
    assert provenance.image("team/redis", ONE) is None
    provenance.record_image("team/redis", ONE, first, timeout=10)
    assert provenance.image("team/redis", ONE) == first
    provenance.record_image("team/redis", ONE, second, timeout=10)
    assert provenance.image("team/redis", ONE) == second
    assert provenance.image("team", ONE) is None


def test_an_image_record_keeps_its_summary_unless_the_image_is_huge_or_the_summary_damaged(bucket: Bucket) -> None:
    provenance = ProvenanceStore(bucket)
    sizes = {ONE: 5, TWO: 2**40}
    origin = ImageProvenance("a.io/b:c", ONE, "", "", (), ImageSummary("a/type", ("linux/amd64",), sizes))
    provenance.record_image("team/redis", ONE, origin, timeout=10)
    assert provenance.image("team/redis", ONE) == origin
    many = {Digest.of(str(number).encode()): 1 for number in range(MOST_SUMMARISED + 1)}
    huge = replace(origin, summary=ImageSummary("a/type", (), many))
    provenance.record_image("team/redis", ONE, huge, timeout=10)
    assert provenance.image("team/redis", ONE) == replace(huge, summary=None)
    good = json.loads(origin.to_json())
    damages: list[object] = [
        [],
        {},
        {**good["summary"], "media_type": 1},
        {**good["summary"], "platforms": [1]},
        {**good["summary"], "sizes": {str(ONE): "5"}},
        {**good["summary"], "sizes": {str(ONE): -1}},
        {**good["summary"], "sizes": {str(ONE): 2**63}},
        {**good["summary"], "sizes": {str(ONE): True}},
        {**good["summary"], "sizes": {"sha256:1": 5}},
    ]
    for damage in damages:
        bucket.put(layout.image_provenance_key("team/redis", ONE), json.dumps({**good, "summary": damage}).encode())
        assert provenance.image("team/redis", ONE) == replace(origin, summary=None)


def test_a_damaged_image_record_counts_as_unknown(bucket: Bucket) -> None:
    provenance = ProvenanceStore(bucket)
    good = {"source": "a.io/b:c", "digest": str(ONE), "mirrored_at": "2026-11-23T20:00:00Z", "job": "job_01"}
    for damage in (
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 9000,
        json.dumps({**good, "digest": "sha256:1"}).encode(),
        json.dumps({**good, "job": 1}).encode(),
    ):
        bucket.put(layout.image_provenance_key("team/redis", ONE), damage)
        assert provenance.image("team/redis", ONE) is None
    bucket.put(layout.image_provenance_key("team/redis", ONE), json.dumps({**good, "later": True}).encode())
    assert provenance.image("team/redis", ONE) == ImageProvenance("a.io/b:c", ONE, "2026-11-23T20:00:00Z", "job_01")


def test_every_repository_that_a_blob_was_verified_from_is_recorded(bucket: Bucket) -> None:
    """``team`` and ``team/app`` on one registry: a server on files cannot store one object below another."""
    provenance = ProvenanceStore(bucket)
    sources = {("127.0.0.1:5000", "team"), ("127.0.0.1:5000", "team/app"), ("docker.io", "library/redis")}
    for registry, repository in sources:
        provenance.record_blob_source(ONE, registry, repository)
        provenance.record_blob_source(ONE, registry, repository)
    assert set(bucket.keys("mirror/v1/blobs/")) == {layout.blob_provenance_key(ONE, *source) for source in sources}
    assert provenance.has_blob_source(ONE, "docker.io", "library/redis")
    assert not provenance.has_blob_source(ONE, "docker.io", "library")


@pytest.mark.docker_registry
def test_a_stock_registry_serves_what_is_linked_and_nothing_else(
    bucket: Bucket, s3_server: S3Server, s3_prefix: str, tmp_path: Path
) -> None:
    config, layer = b"{}", b"a layer"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": _entry(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [_entry(layer, "application/vnd.oci.image.layer.v1.tar")],
        }
    ).encode()
    store, links, digest = BlobStore(bucket), LinkStore(bucket), Digest.of(manifest)
    for content in (config, layer, manifest):
        store.put(verify(content, Descriptor("any", Digest.of(content), len(content))), content)
    for content in (config, layer):
        links.link_layer("team/app", Digest.of(content))
    links.link_revision("team/app", digest)
    links.add_to_history("team/app", "7", digest, timeout=10)
    headers = {"Accept": media_types.OCI_MANIFEST}
    with DockerRegistry(tmp_path, S3Storage(s3_server, s3_prefix)) as registry, urllib3.PoolManager() as http:
        at = f"{registry.url}/v2/team/app"
        assert http.request("GET", f"{at}/manifests/7", headers=headers).status == 404
        links.set_current("team/app", "7", digest, timeout=10)
        response = http.request("GET", f"{at}/manifests/7", headers=headers)
        assert (response.data, response.headers["Docker-Content-Digest"]) == (manifest, str(digest))
        assert http.request("GET", f"{at}/blobs/{Digest.of(layer)}").data == layer
        assert http.request("GET", f"{at}/tags/list").json() == {"name": "team/app", "tags": ["7"]}
        links.delete_tag("team/app", "7", timeout=10)
        assert http.request("GET", f"{at}/manifests/7", headers=headers).status == 404
        assert http.request("GET", f"{at}/manifests/{digest}", headers=headers).data == manifest


def _entry(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


TAGS = [f"v{number}" for number in range(20)]


def pointing(links: LinkStore, repository: str, tags: list[str], digest: Digest) -> dict[tuple[str, str], Digest]:
    """Let the tags point at the digest, each with a history."""
    for tag in tags:
        links.add_to_history(repository, tag, TWO, timeout=10)
        links.set_current(repository, tag, digest, timeout=10)
    return dict.fromkeys([(repository, tag) for tag in tags], digest)


def test_many_tags_are_compared_together(links: LinkStore) -> None:
    """Their names and their keys sort differently: ``v1-`` is before ``v1/``."""
    tags = [*TAGS, "v1-alpine", "v1.1", "V1", "_1"]
    wanted = pointing(links, "team/app", tags, ONE)
    pointing(links, "team/app/v1", ["v1"], ONE)
    moved, absent = ("team/app", "v1-alpine"), ("team/app", "v9")
    links.set_current(*moved, TWO, timeout=10)
    links.delete_tag(*absent, timeout=10)
    assert links.matching(wanted, timeout=10) == set(wanted) - {moved, absent}


def test_tags_of_many_repositories_are_compared_together(links: LinkStore) -> None:
    wanted = pointing(links, "team/app", TAGS, ONE) | pointing(links, "team", ["v1"], ONE)
    wanted |= {("other/app", "v1"): ONE}
    assert links.matching(wanted, timeout=10) == set(wanted) - {("other/app", "v1")}
    assert links.matching({}, timeout=10) == set()


def test_a_link_that_the_listing_does_not_prove_is_read(links: LinkStore, bucket: Bucket) -> None:
    """Its ETag is not that of the mirror's links: another tool wrote a newline after the digest, or no digest."""
    wanted = pointing(links, "team/app", TAGS, ONE)
    bucket.put(layout.tag_current_key("team/app", "v3"), f"{ONE}\n".encode())
    bucket.put(layout.tag_current_key("team/app", "v4"), b"no digest")
    assert links.matching(wanted, timeout=10) == set(wanted) - {("team/app", "v4")}


def test_tags_that_there_is_no_time_to_read_do_not_match(links: LinkStore) -> None:
    assert links.matching(pointing(links, "team/app", TAGS[:3], ONE), timeout=0) == set()
