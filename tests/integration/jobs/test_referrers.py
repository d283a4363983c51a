"""Signatures, SBOMs and other referrers are mirrored with their image, and noticed when they are added later."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from mirror.catalog.referrers import MAX_DEPTH
from mirror.errors import PreconditionFailed
from mirror.jobs import referrers
from mirror.jobs.submit import ImageRequest
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.platform import PlatformPattern
from mirror.oci.referrer import CHILDREN_EVERY, Referrer, fallback_tag, write_list
from mirror.records.job import Job, JobOptions
from mirror.records.rules import (
    NO_REFERRERS,
    PLAIN_COPY,
    CopyOptions,
    PlatformMode,
    PlatformRules,
    ReferrerRules,
    TagRules,
)
from mirror.records.task import ReferrerCounts, Task
from mirror.storage import layout
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.harness import Harness, mark_built
from tests.support.images import TestImage
from tests.support.servers.s3 import RcloneS3

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE, SBOM = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/spdx+json"
INDEX = images.three_platforms("signed")
AMD64, ARM64, ARM = INDEX.children.values()
SIGNED = images.artifact(SIGNATURE, b"signature of the index", subject=INDEX)
SIGNED_CHILD = images.artifact(SIGNATURE, b"signature of a child", subject=AMD64)
BILL = images.artifact(SBOM, b"SBOM of the index", subject=INDEX)
SIGNED_BILL = images.artifact(SIGNATURE, b"signature of the SBOM", subject=BILL)
COSIGN = images.artifact(SIMPLE_SIGNING, b"payload")
TAG = "team/app:1"


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source. Any S3 server will do."""
    return rclone_s3


@pytest.fixture(params=["API", "fallback tags"])
def mirror(request: pytest.FixtureRequest, harness: Harness) -> Harness:
    """A mirror, and a registry that has the referrers API or not."""
    mark_built(harness.redis)
    harness.registry.referrers_api = request.param == "API"
    harness.registry.put(INDEX, "team/app", "1")
    return harness


def listing(*entries: TestImage) -> TestImage:
    """Make the index of a fallback tag, as a client writes it."""
    listed = []
    for entry in entries:
        document = json.loads(entry.body)
        descriptor = Descriptor(entry.media_type, entry.digest, len(entry.body))
        listed.append(Referrer(descriptor, document.get("artifactType") or document["config"]["mediaType"]))
    return TestImage(write_list(listed), media_types.OCI_INDEX, children={one.digest: one for one in entries})


def attach(registry: FakeRegistry, subject: TestImage, *referrers: TestImage) -> None:
    """Push all referrers of *subject*, as clients do: without the API also under the fallback tag."""
    for referrer in referrers:
        registry.put(referrer, "team/app")
    if not registry.referrers_api:
        registry.put(listing(*referrers), "team/app", fallback_tag(subject.digest))


def submitted(harness: Harness, options: CopyOptions = PLAIN_COPY, source: str = TAG, target: str = TAG) -> Job:
    job, _ = harness.core.submitter.submit([ImageRequest(f"{harness.registry.host}/{source}", target, options=options)])
    return job


def run(harness: Harness, options: CopyOptions = PLAIN_COPY, source: str = TAG, target: str = TAG) -> Task:
    """Mirror the image as a work horse does. Return its task."""
    job = harness.run_work_horses(submitted(harness, options, source, target))
    [task] = harness.jobs.tasks(job.id, 2)
    return task


def succeeded(task: Task) -> Task:
    assert (task.state, task.error) == ("succeeded", None)
    return task


def listed(harness: Harness, subject: TestImage, repository: str = "team/app") -> set[Digest]:
    return {one.digest for one in harness.core.referrer_lists.listed(repository, subject.digest)}


def is_held(harness: Harness, image: TestImage, repository: str = "team/app") -> bool:
    """Whether the mirror serves the manifest with all of its blobs."""
    held = harness.core.links.has_revision(repository, image.digest)
    return held and all(harness.core.links.has_layer(repository, digest) for digest in image.blobs)


def asked(harness: Harness) -> list[str]:
    """Return the requests since the last call, without blobs."""
    found = [f"{r.method} {r.path.partition('/v2/team/app/')[2]}" for r in list(harness.registry.requests)]
    harness.registry.requests.clear()
    return [one for one in found if "blobs/" not in one]


def test_referrers_of_an_index_its_children_and_its_referrers_are_mirrored(mirror: Harness) -> None:
    attach(mirror.registry, INDEX, SIGNED, BILL)
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    attach(mirror.registry, BILL, SIGNED_BILL)
    task = succeeded(run(mirror))
    assert task.referrers == ReferrerCounts(copied=4)
    assert mirror.jobs.job(task.job).referrers == ReferrerCounts(copied=4)
    assert all(is_held(mirror, one) for one in (SIGNED, BILL, SIGNED_CHILD, SIGNED_BILL))
    assert listed(mirror, INDEX) == {SIGNED.digest, BILL.digest}
    assert listed(mirror, AMD64) == {SIGNED_CHILD.digest}
    assert listed(mirror, BILL) == {SIGNED_BILL.digest}
    [entry] = [one for one in mirror.core.referrer_lists.listed("team/app", INDEX.digest) if one.digest == BILL.digest]
    assert entry.artifact_type == SBOM


def test_a_signature_that_is_added_later_is_all_that_the_next_run_fetches(mirror: Harness) -> None:
    succeeded(run(mirror))
    attach(mirror.registry, INDEX, SIGNED)
    asked(mirror)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (True, ReferrerCounts(copied=1))
    fetched = [one for one in asked(mirror) if one.startswith("GET manifests/")]
    wanted = [f"GET manifests/{SIGNED.digest}"]
    if not mirror.registry.referrers_api:
        wanted = [f"GET manifests/{listing(SIGNED).digest}", *wanted]
    assert fetched == wanted
    assert listed(mirror, INDEX) == {SIGNED.digest}
    assert is_held(mirror, SIGNED)
    again = succeeded(run(mirror))
    assert (again.unchanged, again.referrers) == (True, ReferrerCounts(unchanged=1))


def test_an_unchanged_image_that_the_bucket_has_lost_is_copied_again(mirror: Harness) -> None:
    succeeded(run(mirror))
    mirror.bucket.delete([layout.revision_link_key("team/app", INDEX.digest)])
    attach(mirror.registry, INDEX, SIGNED)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (False, ReferrerCounts(copied=1))
    assert is_held(mirror, INDEX)
    assert listed(mirror, INDEX) == {SIGNED.digest}


def test_a_warm_run_without_referrers_asks_its_source_twice(mirror: Harness) -> None:
    succeeded(run(mirror))
    asked(mirror)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (True, ReferrerCounts())
    look = f"GET referrers/{INDEX.digest}" if mirror.registry.referrers_api else "GET tags/list"
    requests = asked(mirror)
    assert sorted({"HEAD manifests/1", look}) == sorted(set(requests) - {"GET tags/list"} | {look})
    assert len(requests) <= 3 if mirror.registry.referrers_api else len(requests) == 2


def test_a_warm_run_with_referrers_reads_no_manifest(mirror: Harness) -> None:
    attach(mirror.registry, INDEX, SIGNED, BILL)
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    succeeded(run(mirror))
    asked(mirror)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (True, ReferrerCounts(unchanged=3))
    assert not [one for one in asked(mirror) if one.startswith("GET manifests/")]


def test_a_referrer_of_a_child_is_found_within_a_day(mirror: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeded(run(mirror))
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    if mirror.registry.referrers_api:
        assert succeeded(run(mirror)).referrers == ReferrerCounts()
    monkeypatch.setattr("mirror.oci.referrer.CHILDREN_EVERY", timedelta(0))
    assert timedelta(days=1) == CHILDREN_EVERY
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=1)
    assert listed(mirror, AMD64) == {SIGNED_CHILD.digest}


@pytest.mark.parametrize("suffix", [".sig", ".att", ".sbom"])
def test_tags_of_cosign_are_mirrored_and_followed(mirror: Harness, suffix: str) -> None:
    tag = f"sha256-{INDEX.digest.hex}{suffix}"
    mirror.registry.put(COSIGN, "team/app", tag)
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=1)
    assert mirror.core.links.current("team/app", tag) == COSIGN.digest
    assert succeeded(run(mirror)).referrers == ReferrerCounts(unchanged=1)
    signed_again = images.artifact(SIMPLE_SIGNING, b"two payloads")
    mirror.registry.put(signed_again, "team/app", tag)
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=1)
    assert mirror.core.links.current("team/app", tag) == signed_again.digest
    assert is_held(mirror, signed_again)


def test_the_signature_of_an_sbom_under_a_tag_is_mirrored(mirror: Harness) -> None:
    """cosign 2 signs an SBOM that it attached under a tag of the SBOM's digest."""
    mirror.registry.put(COSIGN, "team/app", f"sha256-{INDEX.digest.hex}.sbom")
    signature = images.artifact(SIMPLE_SIGNING, b"the SBOM")
    mirror.registry.put(signature, "team/app", f"sha256-{COSIGN.digest.hex}.sig")
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=2)
    assert mirror.core.links.current("team/app", f"sha256-{COSIGN.digest.hex}.sig") == signature.digest
    asked(mirror)
    assert succeeded(run(mirror)).referrers == ReferrerCounts(unchanged=2)
    assert not [one for one in asked(mirror) if one.startswith("GET manifests/")]


def test_without_referrers_nothing_is_looked_for(mirror: Harness) -> None:
    attach(mirror.registry, INDEX, SIGNED)
    options = CopyOptions(referrers=NO_REFERRERS)
    assert succeeded(run(mirror, options)).referrers is None
    assert mirror.registry.looks_for_referrers() == []
    assert not mirror.core.links.has_revision("team/app", SIGNED.digest)
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=1), "the next job wants all of them"


def test_only_wanted_types_are_mirrored(mirror: Harness) -> None:
    attach(mirror.registry, INDEX, SIGNED, BILL)
    options = CopyOptions(referrers=ReferrerRules(types=(SBOM,)))
    assert succeeded(run(mirror, options)).referrers == ReferrerCounts(copied=1)
    assert listed(mirror, INDEX) == {BILL.digest}
    assert not mirror.core.links.has_revision("team/app", SIGNED.digest)
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=1, unchanged=1)


def test_a_type_that_the_list_does_not_tell_is_read_from_the_referrer(mirror: Harness) -> None:
    """GHCR names the type of the empty config for every referrer."""
    attach(mirror.registry, INDEX, SIGNED, BILL)

    def as_ghcr(request: Request, reply: Reply) -> Reply | None:
        body = reply.body if isinstance(reply.body, bytes) else b""
        if request.path.endswith(str(INDEX.digest)) or b'"manifests"' not in body:
            return None
        empty = b"application/vnd.oci.empty.v1+json"
        return Reply(reply.status, reply.headers, body.replace(SBOM.encode(), empty).replace(SIGNATURE.encode(), empty))

    if mirror.registry.referrers_api:
        mirror.registry.script(as_ghcr)
    options = CopyOptions(referrers=ReferrerRules(types=(SIGNATURE,)))
    assert succeeded(run(mirror, options)).referrers == ReferrerCounts(copied=1)
    [entry] = mirror.core.referrer_lists.listed("team/app", INDEX.digest)
    assert (entry.digest, entry.artifact_type) == (SIGNED.digest, SIGNATURE)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_image_is_not_published_while_its_referrers_cannot_be_listed(mirror: Harness, status: int) -> None:
    attach(mirror.registry, INDEX, SIGNED)
    part = "/referrers/" if mirror.registry.referrers_api else "/tags/list"
    failing = [True]

    def fail(request: Request, _: Reply) -> Reply | None:
        headers = {"Retry-After": "60"} if status == 429 else {}
        return Reply(status, headers) if failing and part in request.path else None

    mirror.registry.script(fail)
    task = run(mirror)
    assert task.state in ("queued", "failed"), task
    assert task.waiting_for or task.error
    assert mirror.core.links.current("team/app", "1") is None
    failing.clear()


def test_an_unchanged_image_does_not_succeed_while_its_referrers_cannot_be_listed(mirror: Harness) -> None:
    succeeded(run(mirror))
    part = "/referrers/" if mirror.registry.referrers_api else "/tags/list"
    mirror.registry.script(lambda request, _: Reply(429, {"Retry-After": "60"}) if part in request.path else None)
    task = run(mirror)
    assert (task.state, task.waiting_for and task.waiting_for.reason) == ("queued", "rate_limited")


@pytest.mark.parametrize("mode", ["sparse", "rewrite", "single"])
def test_referrers_follow_the_platforms_that_are_kept(mirror: Harness, mode: PlatformMode) -> None:
    attach(mirror.registry, INDEX, SIGNED)
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    other = images.artifact(SIGNATURE, b"signature of another child", subject=ARM64)
    attach(mirror.registry, ARM64, other)
    options = CopyOptions(PlatformRules((PlatformPattern.parse("linux/amd64"),), mode))
    found = succeeded(run(mirror, options)).referrers
    assert found == ReferrerCounts(copied=2 if mode == "sparse" else 1)
    assert listed(mirror, AMD64) == {SIGNED_CHILD.digest}
    assert listed(mirror, INDEX) == ({SIGNED.digest} if mode == "sparse" else set())
    assert listed(mirror, ARM64) == set()
    again = succeeded(run(mirror, options))
    assert (again.unchanged, again.referrers) == (True, ReferrerCounts(unchanged=2 if mode == "sparse" else 1))


def test_a_referrer_that_names_another_subject_or_is_gone_is_left_out(harness: Harness) -> None:
    mark_built(harness.redis)
    harness.registry.put(INDEX, "team/app", "1")
    gone = images.artifact(SBOM, b"deleted", subject=INDEX)
    attach(harness.registry, INDEX, SIGNED, SIGNED_CHILD, gone)
    harness.registry.remove("team/app", str(gone.digest))
    assert succeeded(run(harness)).referrers == ReferrerCounts(copied=1, left_out=2)
    assert listed(harness, INDEX) == {SIGNED.digest}


def test_an_attestation_that_is_a_child_and_a_referrer_is_both(harness: Harness) -> None:
    mark_built(harness.redis)
    attestation = images.artifact("application/vnd.docker.attestation.manifest.v1+json", b"{}", subject=AMD64)
    whole = images.index(("linux/amd64", AMD64), ("unknown/unknown", attestation))
    harness.registry.referrers_api = True
    harness.registry.put(whole, "team/app", "1")
    assert succeeded(run(harness)).referrers == ReferrerCounts(unchanged=1)
    assert listed(harness, AMD64) == {attestation.digest}
    assert succeeded(run(harness)).referrers == ReferrerCounts(unchanged=1)


def test_an_image_with_too_many_referrers_is_refused(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(referrers, "MAX_REFERRERS", 3)
    harness.registry.put(INDEX, "team/app", "1")
    attach(harness.registry, INDEX, *(images.artifact(SBOM, bytes([n]), subject=INDEX) for n in range(4)))
    task = run(harness)
    assert task.error
    assert task.error.code == "TOO_MANY_REFERRERS"
    assert harness.stored() == [] or harness.core.links.current("team/app", "1") is None


def test_referrers_refer_to_each_other_only_so_deep(harness: Harness) -> None:
    """A source could make a chain without an end."""
    harness.registry.put(INDEX, "team/app", "1")
    subject, chain = INDEX, []
    for depth in range(6):
        below = images.artifact(SIGNATURE, f"level {depth}".encode(), subject=subject)
        attach(harness.registry, subject, below)
        chain.append(below)
        subject = below
    assert succeeded(run(harness)).referrers == ReferrerCounts(copied=MAX_DEPTH)
    assert [is_held(harness, one) for one in chain] == [True] * 3 + [False] * 3


def test_a_selection_notices_a_new_signature_of_an_unchanged_tag(mirror: Harness) -> None:
    mirror.registry.put(AMD64, "team/app", "2")
    rules = TagRules()
    source = f"{mirror.registry.host}/team/app"

    def expanded() -> Job:
        job, _ = mirror.core.submitter.submit([ImageRequest(source, None, rules)])
        return mirror.run_work_horses(job)

    assert expanded().referrers == ReferrerCounts()
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    second = expanded()
    assert (second.state, second.referrers.copied, second.images.unchanged) == ("succeeded", 1, 2)
    repository = f"{mirror.registry.host.replace(':', '_')}/team/app"
    assert {one.digest for one in mirror.core.referrer_lists.listed(repository, AMD64.digest)} == {SIGNED_CHILD.digest}


def test_a_registry_that_lists_no_tags_is_asked_for_each(mirror: Harness) -> None:
    mirror.registry.script(lambda request, _: Reply(404) if request.path.endswith("/tags/list") else None)
    attach(mirror.registry, INDEX, SIGNED)
    mirror.registry.put(COSIGN, "team/app", f"sha256-{INDEX.digest.hex}.sig")
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=2)
    assert succeeded(run(mirror)).referrers == ReferrerCounts(unchanged=2)


def test_referrers_of_an_atomic_job_are_there_when_its_tags_move(mirror: Harness) -> None:
    attach(mirror.registry, INDEX, SIGNED)
    job, _ = mirror.core.submitter.submit([ImageRequest(f"{mirror.registry.host}/{TAG}", TAG)], JobOptions(atomic=True))
    job = mirror.run_work_horses(job)
    assert (job.state, job.referrers.copied) == ("succeeded", 1)
    assert listed(mirror, INDEX) == {SIGNED.digest}
    assert succeeded(run(mirror)).referrers == ReferrerCounts(unchanged=1)


def test_referrers_cost_pull_quota_once(harness: Harness) -> None:
    hub = PullLimit(10, window=3600)
    harness.registry.script(hub)
    harness.registry.put(AMD64, "team/app", "1")
    attach(harness.registry, AMD64, SIGNED_CHILD)
    assert succeeded(run(harness)).referrers == ReferrerCounts(copied=1)
    used = hub.used
    assert succeeded(run(harness)).referrers == ReferrerCounts(unchanged=1)
    assert (hub.used, hub.refused) == (used, 0)


# -- retag


LIVE = LocalImage("prod/app", "live")


def with_all_kinds(harness: Harness) -> LocalImage:
    """Mirror an image with referrers of it, of a child and of a referrer, and with a tag of cosign."""
    attach(harness.registry, INDEX, SIGNED, BILL)
    attach(harness.registry, AMD64, SIGNED_CHILD)
    attach(harness.registry, BILL, SIGNED_BILL)
    harness.registry.put(COSIGN, "team/app", f"{fallback_tag(INDEX.digest)}.sig")
    assert succeeded(run(harness)).referrers == ReferrerCounts(copied=5)
    return LocalImage.parse(TAG)


def test_a_retag_into_another_repository_takes_all_referrers_along(mirror: Harness) -> None:
    source = with_all_kinds(mirror)
    asked(mirror)
    for _ in range(2):
        mirror.core.retagger.retag(LIVE, source, allowed=lambda _: True)
        for subject in (INDEX, AMD64, BILL):
            there, here = (mirror.core.referrer_lists.listed(name, subject.digest) for name in ("prod/app", "team/app"))
            assert [one.entry() for one in there] == [one.entry() for one in here]
        assert all(is_held(mirror, one, "prod/app") for one in (SIGNED, BILL, SIGNED_CHILD, SIGNED_BILL, COSIGN))
        signature = LocalImage("prod/app", f"{fallback_tag(INDEX.digest)}.sig")
        assert mirror.core.changes.current(signature) == COSIGN.digest
    assert asked(mirror) == []


def test_a_retag_adds_to_what_its_repository_has(mirror: Harness) -> None:
    source = with_all_kinds(mirror)
    tag = f"{fallback_tag(INDEX.digest)}.sig"
    own, other = images.artifact(SIGNATURE, b"of the team of prod", subject=INDEX), images.artifact(SBOM, b"their tag")
    for one, name in ((own, "own"), (other, tag)):
        mirror.registry.put(one, "prod/app", name)
        succeeded(run(mirror, CopyOptions(referrers=NO_REFERRERS), f"prod/app:{name}", f"prod/app:{name}"))
    entry = Referrer(Descriptor(own.media_type, own.digest, len(own.body)))
    mirror.core.referrer_lists.add("prod/app", INDEX.digest, [entry], by="test")
    mirror.core.retagger.retag(LIVE, source, allowed=lambda _: True)
    assert listed(mirror, INDEX, "prod/app") == {own.digest, SIGNED.digest, BILL.digest}
    assert mirror.core.changes.current(LocalImage("prod/app", tag)) == other.digest


def test_a_retag_leaves_out_a_referrer_that_the_bucket_has_lost(mirror: Harness) -> None:
    source = with_all_kinds(mirror)
    payload = max(SIGNED.blobs, key=lambda digest: len(SIGNED.blobs[digest]))
    mirror.bucket.delete([layout.blob_key(payload), layout.revision_link_key("team/app", SIGNED_CHILD.digest)])
    mirror.core.retagger.retag(LIVE, source, allowed=lambda _: True)
    assert listed(mirror, INDEX, "prod/app") == {BILL.digest}
    assert listed(mirror, AMD64, "prod/app") == set()
    assert is_held(mirror, INDEX, "prod/app")
    task = succeeded(run(mirror, target="prod/app:live"))
    assert task.unchanged
    assert listed(mirror, INDEX, "prod/app") == {BILL.digest, SIGNED.digest}
    assert is_held(mirror, SIGNED, "prod/app")


def test_a_refused_retag_lists_no_referrer(mirror: Harness) -> None:
    source = with_all_kinds(mirror)
    before = mirror.stored()
    with pytest.raises(PreconditionFailed):
        mirror.core.retagger.retag(LIVE, source, allowed=lambda current: current is not None)
    assert mirror.stored() == before
