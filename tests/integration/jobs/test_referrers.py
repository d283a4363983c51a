"""Signatures, SBOMs and other referrers are mirrored with their image."""

from __future__ import annotations

import pytest

from mirror.catalog.referrers import MAX_DEPTH
from mirror.jobs import referrers
from mirror.oci.platform import PlatformPattern
from mirror.records.job import JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.rules import NO_REFERRERS, CopyOptions, PlatformMode, PlatformRules, ReferrerRules
from mirror.records.task import ReferrerCounts
from tests.integration.jobs.referrer_jobs import (
    AMD64,
    ARM64,
    BILL,
    COSIGN,
    INDEX,
    SBOM,
    SIGNATURE,
    SIGNED,
    SIGNED_BILL,
    SIGNED_CHILD,
    SIMPLE_SIGNING,
    TAG,
    asked,
    attach,
    is_held,
    listed,
    mirror,
    run,
    s3_server,
    succeeded,
)
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness, mark_built

__all__ = ["mirror", "s3_server"]


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
