"""Lists of referrers, in a real bucket. What dies or interferes is in test_referrers_races.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from mirror.errors import ImageNotHeld, ReferrersTagTaken, StorageDamaged, TooManyReferrers
from mirror.oci import media_types
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import MAX_ENTRIES, MAX_MANIFEST_SIZE
from mirror.storage import layout
from tests.integration.catalog.support import always
from tests.support import images
from tests.support.harness import Harness, mark_built
from tests.support.images import EMPTY_CONFIG, TestImage
from tests.support.referrer_set import KIND, REPOSITORY, ReferrerSet, entry, hold, publish
from tests.support.servers import DockerRegistry, RcloneS3, S3Storage


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """Lists are written as tags are, and test_tag_changes.py runs on both servers."""
    return rclone_s3


@pytest.fixture
def signed(harness: Harness) -> ReferrerSet:
    return ReferrerSet.of(harness.core, 3)


def document(signed: ReferrerSet) -> dict[str, Any]:
    """Return the list as a reader of the tag gets it."""
    found: dict[str, Any] = json.loads(signed.core.reader.manifest(signed.target).body)
    return found


def put_list(signed: ReferrerSet, *entries: dict[str, Any], **fields: Any) -> TestImage:
    """Publish a list, as the copy of a fallback tag does."""
    listing = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries, **fields}
    made = TestImage(json.dumps(listing).encode(), listing["mediaType"])
    publish(signed.core, made, signed.target)
    return made


def test_referrers_are_listed_in_their_order_each_once(signed: ReferrerSet) -> None:
    assert (signed.listed(), signed.add(1, 0, 1), signed.listed()) == ([], 2, [1, 0])
    assert (signed.add(0, 2, 1), signed.listed()) == (1, [1, 0, 2])
    digests = [str(signed.artifacts[number].digest) for number in (1, 0, 2)]
    assert [one["digest"] for one in document(signed)["manifests"]] == digests


def test_what_is_listed_already_costs_one_read_and_no_write(
    signed: ReferrerSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed.add(0, 1)
    shown = signed.core.links.current(*signed.tag)
    assert shown
    requests: list[str] = []
    for name in ("open", "put", "delete", "size"):
        monkeypatch.setattr(signed.core.bucket, name, noted(getattr(signed.core.bucket, name), requests))
    assert signed.add(1, 0) == 0
    assert requests == [layout.blob_key(shown)]


def noted(request: Any, keys: list[str]) -> Any:
    def noting(key: str, *args: Any, **options: Any) -> Any:
        keys.append(key)
        return request(key, *args, **options)

    return noting


def test_what_others_wrote_is_kept_as_it_is(signed: ReferrerSet) -> None:
    """Also what the mirror does not know, and an entry whose manifest it does not hold."""
    theirs: list[dict[str, Any]] = [
        {**images.artifact(KIND, b"not copied").descriptor, "org.example.unknown": {"a": [1]}},
        {**signed.artifacts[1].descriptor, "artifactType": EMPTY_CONFIG, "annotations": {"b": "ü"}, "data": "e30="},
    ]
    put_list(signed, *theirs, annotations={"org.example": "whole"})
    assert signed.add() == 2
    listing = document(signed)
    assert listing["manifests"][:2] == theirs
    assert [one["digest"] for one in listing["manifests"][2:]] == [str(signed.artifacts[n].digest) for n in (0, 2)]
    assert listing["annotations"] == {"org.example": "whole"}


@pytest.mark.parametrize("stated", ["", EMPTY_CONFIG])
def test_a_new_entry_tells_what_its_manifest_tells(signed: ReferrerSet, stated: str) -> None:
    """The source may have listed no type, that of the empty config, or another size."""
    body = json.dumps({**json.loads(signed.artifacts[0].body), "annotations": {"org.example": "1"}}).encode()
    artifact = replace(signed.artifacts[0], body=body)
    hold(signed.core, artifact)
    listed = entry(artifact, stated)
    wrong = replace(listed, descriptor=replace(listed.descriptor, size=1))
    assert signed.core.referrer_lists.add(REPOSITORY, signed.subject.digest, [wrong], by="job_1") == 1
    expected = {**artifact.descriptor, "artifactType": KIND, "annotations": {"org.example": "1"}}
    assert document(signed)["manifests"] == [expected]


@pytest.mark.parametrize("kind", [media_types.OCI_MANIFEST, media_types.DOCKER_LIST])
def test_an_image_under_the_fallback_tag_is_not_replaced(harness: Harness, signed: ReferrerSet, kind: str) -> None:
    image = images.image(images.layer("theirs"))
    theirs = image if kind == media_types.OCI_MANIFEST else images.index((None, image), docker=True)
    publish(harness.core, theirs, signed.target)
    before = harness.stored()
    with pytest.raises(ReferrersTagTaken, match=f"{signed.target}.*{re.escape(kind)}"):
        signed.add()
    assert (harness.stored(), signed.listed()) == (before, [])
    assert harness.core.reader.digest(signed.target) == theirs.digest


def test_a_list_has_bounds(harness: Harness, signed: ReferrerSet) -> None:
    large = replace(signed.referrers(0)[0], annotations={"org.example": "a" * MAX_MANIFEST_SIZE})
    before = harness.stored()
    with pytest.raises(TooManyReferrers, match=str(signed.target)):
        harness.core.referrer_lists.add(REPOSITORY, signed.subject.digest, [large], by="job_1")
    full = put_list(signed, *(images.artifact(KIND, str(number).encode()).descriptor for number in range(MAX_ENTRIES)))
    with pytest.raises(TooManyReferrers, match="10001 entries"):
        signed.add(0)
    assert harness.core.reader.digest(signed.target) == full.digest
    assert len(harness.stored()) > len(before)


def test_a_referrer_that_is_not_readable_is_not_listed(harness: Harness, signed: ReferrerSet) -> None:
    harness.bucket.delete([layout.revision_link_key(REPOSITORY, signed.artifacts[1].digest)])
    before = harness.stored()
    with pytest.raises(ImageNotHeld):
        signed.add()
    assert harness.stored() == before


def test_a_list_that_is_lost_is_not_begun_anew(harness: Harness, signed: ReferrerSet) -> None:
    signed.add(0)
    harness.bucket.delete([layout.blob_key(harness.core.reader.digest(signed.target))])
    with pytest.raises(StorageDamaged):
        signed.add(1)
    with pytest.raises(StorageDamaged):
        signed.listed()


def test_a_deleted_list_begins_anew(harness: Harness, signed: ReferrerSet) -> None:
    signed.add(0, 1)
    harness.core.deleter.delete(signed.target, allowed=always)
    assert (signed.listed(), signed.add(1, 2), signed.listed()) == ([], 2, [1, 2])


def test_a_list_outlives_the_tag_of_its_subject(harness: Harness, signed: ReferrerSet) -> None:
    name = LocalImage(REPOSITORY, "1")
    publish(harness.core, signed.subject, name)
    signed.add(0)
    harness.core.deleter.delete(name, allowed=always)
    assert (signed.listed(), signed.add(0, 1), signed.listed()) == ([0], 1, [0, 1])


def test_lists_count_what_their_referrers_need_also_after_a_rebuild(harness: Harness, signed: ReferrerSet) -> None:
    publish(harness.core, signed.subject, LocalImage(REPOSITORY, "1"))
    signed.add(0, by="job_1")
    signed.add(1, 2, by="job_2")
    mark_built(harness.redis)

    def listed() -> Any:
        return harness.core.index.images(limit=9, wanted=lambda _: True), harness.core.index.repositories(limit=9)

    before = listed()
    [found] = [one for one in before[0][0] if one.tag == signed.target.tag]
    [repository], _ = before[1]
    shown = harness.core.reader.manifest(signed.target)
    parts = {shown.descriptor.digest: len(shown.body)}
    for artifact in signed.artifacts:
        parts |= {artifact.digest: len(artifact.body)} | {d: len(body) for d, body in artifact.all_blobs().items()}
    assert (found.digest, found.size, found.job) == (str(shown.descriptor.digest), sum(parts.values()), "job_2")
    parts |= {signed.subject.digest: len(signed.subject.body)}
    parts |= {digest: len(body) for digest, body in signed.subject.all_blobs().items()}
    assert (repository.tags, repository.bytes) == (2, sum(parts.values()))
    harness.redis.call("FLUSHALL")
    assert harness.core.rebuilder.rebuild(lambda: True)
    assert listed() == before
    assert (signed.listed(), signed.add()) == ([0, 1, 2], 0)


def test_a_list_without_a_record_counts_what_is_held(harness: Harness, signed: ReferrerSet) -> None:
    """Another tool wrote it. What it lists is read once, and what the mirror does not hold needs nothing."""
    theirs = put_list(signed, signed.artifacts[0].descriptor, images.artifact(KIND, b"not copied").descriptor)
    harness.bucket.delete([layout.image_provenance_key(REPOSITORY, theirs.digest)])
    signed.add(1)
    entry_of_list = harness.core.index.entry(*signed.tag)
    held = harness.core.reader.image(signed.target)
    assert entry_of_list
    assert entry_of_list.size == sum(held.sizes.values())


@pytest.mark.docker_registry
def test_a_stock_registry_serves_the_list_and_all_that_it_lists(
    signed: ReferrerSet, rclone_s3: RcloneS3, s3_prefix: str, tmp_path: Path
) -> None:
    publish(signed.core, signed.subject, LocalImage(REPOSITORY, "1"))
    for number in range(3):
        signed.add(number)
    shown = signed.core.reader.manifest(signed.target)
    with DockerRegistry(tmp_path, S3Storage(rclone_s3, s3_prefix)) as stock, urllib3.PoolManager(retries=False) as pool:
        url, accept = f"{stock.url}/v2/{REPOSITORY}", {"Accept": ", ".join(media_types.ACCEPTED)}
        answer = pool.request("GET", f"{url}/manifests/{signed.target.tag}", headers=accept)
        assert (answer.status, answer.data) == (200, shown.body)
        assert [one["digest"] for one in answer.json()["manifests"]] == [str(one.digest) for one in signed.artifacts]
        for artifact in signed.artifacts:
            assert pool.request("GET", f"{url}/manifests/{artifact.digest}", headers=accept).data == artifact.body
            for digest, content in artifact.all_blobs().items():
                assert pool.request("GET", f"{url}/blobs/{digest}").data == content
