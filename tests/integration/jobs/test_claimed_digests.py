"""A digest alone proves nothing: a source has the images that it served, now or before, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.storage import layout
from mirror.storage.provenance import ProvenanceStore
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.harness import Harness

pytestmark = pytest.mark.parametrize("s3_server", ["rclone_s3"], indirect=True)

IMAGE = images.three_platforms("secret")
TARGET = "prod/app:1"


@dataclass
class Claimant:
    """A registry that names the digest of IMAGE for everything it is asked by HEAD, and has none of its bytes."""

    harness: Harness
    registry: FakeRegistry

    def mirror(self, path: str, target: str = TARGET) -> Job:
        job, _ = self.harness.core.submitter.submit([ImageRequest(f"{self.registry.host}/{path}", target)])
        return self.harness.run_work_horses(job)


def claim(request: Request, _: Reply) -> Reply | None:
    return Reply(200, {"Docker-Content-Digest": str(IMAGE.digest)}) if request.method == "HEAD" else None


@pytest.fixture(params=["another registry", "another repository"])
def claimant(request: pytest.FixtureRequest, harness: Harness) -> Iterator[Claimant]:
    """The claimant's repository is ``evil/app``. IMAGE is ``team/app:1`` of the harness's own registry."""
    harness.registry.put(IMAGE, "team/app", "1")
    if request.param == "another repository":
        harness.registry.script(lambda q, reply: claim(q, reply) if "/evil/" in q.path else None)
        yield Claimant(harness, harness.registry)
        return
    with FakeRegistry() as other:
        other.script(claim)
        both = harness.with_settings(insecure_registries=frozenset({harness.registry.host, other.host}))
        yield Claimant(both, other)
        both.core.close()


def limit(claimant: Claimant) -> None:
    """Let reads of manifests be counted, at both registries: what the bucket holds is read from there."""
    claimant.registry.script(PullLimit(100, window=600))
    if claimant.harness.registry is not claimant.registry:
        claimant.harness.registry.script(PullLimit(100, window=600))


def assert_refused(claimant: Claimant, job: Job, target: str = TARGET) -> None:
    assert job.error is not None
    assert (job.state, job.error.code, job.digest) == ("failed", "MANIFEST_UNKNOWN", None)
    name = LocalImage.parse(target)
    assert claimant.harness.core.index.entry(name.repository, str(name.tag)) is None
    assert not [key for key in claimant.harness.stored() if f"/{name.repository}/" in key]
    provenance = ProvenanceStore(claimant.harness.bucket)
    assert not provenance.has_blob_source(IMAGE.digest, claimant.registry.host, "evil/app")


@pytest.mark.parametrize("limited", [False, True])
def test_a_head_alone_publishes_nothing_though_the_bucket_holds_it_all(claimant: Claimant, *, limited: bool) -> None:
    if limited:
        limit(claimant)
    assert claimant.harness.mirror("team/app:1", "held/app:1").state == "succeeded"
    assert_refused(claimant, claimant.mirror("evil/app:1"))


@pytest.mark.parametrize("limited", [False, True])
def test_a_digest_that_the_user_gives_is_not_taken_from_the_bucket(claimant: Claimant, *, limited: bool) -> None:
    if limited:
        limit(claimant)
        claimant.mirror("evil/app:1")  # the limit is known before
    assert claimant.harness.mirror("team/app:1", "held/app:1").state == "succeeded"
    assert_refused(claimant, claimant.mirror(f"evil/app@{IMAGE.digest}"))


def test_what_another_job_has_read_and_not_published_yet_is_not_to_be_claimed(claimant: Claimant) -> None:
    limit(claimant)
    layer = next(iter(IMAGE.all_blobs()))
    claimant.harness.registry.script(lambda q, _: Reply(404) if f"/blobs/{layer}" in q.path else None)
    assert claimant.harness.mirror("team/app:1", "held/app:1").state == "failed"
    assert layout.blob_key(IMAGE.digest) in claimant.harness.stored()
    assert_refused(claimant, claimant.mirror("evil/app:1"))


@pytest.mark.parametrize("limited", [False, True])
def test_a_tag_that_shows_the_image_already_is_not_called_unchanged_for_a_claimant(
    claimant: Claimant, *, limited: bool
) -> None:
    if limited:
        limit(claimant)
    harness = claimant.harness
    assert harness.mirror("team/app:1", TARGET).state == "succeeded"
    before = harness.stored()
    job = claimant.mirror("evil/app:1")
    assert job.error is not None
    assert (job.state, job.error.code, job.digest) == ("failed", "MANIFEST_UNKNOWN", None)
    entry = harness.core.index.entry("prod/app", "1")
    assert entry is not None
    assert (entry.source, harness.stored()) == (f"{harness.registry.host}/team/app:1", before)
    assert harness.mirror("team/app:1", TARGET).images.unchanged == 1


def test_without_an_index_the_bucket_says_whose_the_tag_is(claimant: Claimant) -> None:
    harness = claimant.harness
    assert harness.mirror("team/app:1", TARGET).state == "succeeded"
    harness.core.index.remove("prod/app", "1")
    job = claimant.mirror("evil/app:1")
    assert job.error is not None
    assert job.error.code == "MANIFEST_UNKNOWN"
    assert harness.core.index.entry("prod/app", "1") is None
    assert harness.mirror("team/app:1", TARGET).images.unchanged == 1


def test_a_digest_that_is_kept_already_is_not_called_unchanged_for_a_claimant(claimant: Claimant) -> None:
    harness, name = claimant.harness, f"prod/app@{IMAGE.digest}"
    assert harness.mirror(f"team/app@{IMAGE.digest}", "prod/app").state == "succeeded"
    job = claimant.mirror(f"evil/app@{IMAGE.digest}", "prod/app")
    assert job.error is not None
    assert job.error.code == "MANIFEST_UNKNOWN"
    assert harness.core.reader.digest(LocalImage.parse(name)) == IMAGE.digest
    assert harness.mirror(f"team/app@{IMAGE.digest}", "prod/app").images.unchanged == 1


def test_a_source_that_does_serve_it_is_believed_and_from_then_on_by_its_head(claimant: Claimant) -> None:
    harness = claimant.harness
    assert harness.mirror("team/app:1", TARGET).state == "succeeded"
    claimant.registry.put(IMAGE, "evil/app", "1")
    first = claimant.mirror("evil/app:1")
    assert (first.state, first.digest, first.images.unchanged) == ("succeeded", str(IMAGE.digest), 1)
    before = len(claimant.registry.log())
    again = claimant.mirror("evil/app:1")
    assert (again.state, again.images.unchanged) == ("succeeded", 1)
    assert [request.method for request in claimant.registry.log()[before:]] == ["HEAD"]


def test_a_retagged_image_is_not_taken_for_one_of_docker_hub_by_its_name(harness: Harness) -> None:
    """Its origin is unknown: the name of the local image that it was tagged from says nothing about a registry."""
    harness.registry.put(IMAGE, "team/app", "1")
    harness.mirror("team/app:1", "held/app:1")
    held = LocalImage("held/app", "1")
    harness.bucket.delete([layout.image_provenance_key("held/app", IMAGE.digest)])
    harness.core.retagger.retag(LocalImage("prod/app", "1"), held, allowed=lambda _: True)
    [listed] = harness.core.confirmer.indexed([LocalImage("prod/app", "1")])
    assert listed is not None
    assert listed.source == "held/app:1"
    assert not listed.is_from(Reference.parse("docker.io/held/app:1"))


def provenance(harness: Harness, repository: str, digest: Digest) -> tuple[str, set[Digest]]:
    found = ProvenanceStore(harness.bucket).image(repository, digest)
    assert found is not None
    return found.source, set(found.held)


def test_provenance_says_which_blobs_were_held_and_claims_no_source_for_them(harness: Harness) -> None:
    base = images.layer("base")
    first, second = images.image(base), images.image(base, images.layer("own"))
    harness.registry.put(first, "team/app", "1")
    harness.registry.put(second, "other/app", "1")
    harness.mirror("team/app:1", "one/app:1")
    harness.mirror("other/app:1", "two/app:1")
    host = harness.registry.host
    assert provenance(harness, "one/app", first.digest) == (f"{host}/team/app:1", set())
    assert provenance(harness, "two/app", second.digest) == (f"{host}/other/app:1", {base.digest})
    sources = [key for key in harness.stored() if key.startswith("mirror/v1/blobs/") and base.digest.hex in key]
    assert sources == [layout.blob_provenance_key(base.digest, host, "team/app")]
