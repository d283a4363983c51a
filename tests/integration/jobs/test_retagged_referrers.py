"""A retag takes the referrers of an image along into another repository."""

from __future__ import annotations

import pytest

from mirror.errors import PreconditionFailed
from mirror.oci.descriptor import Descriptor
from mirror.oci.local_image import LocalImage
from mirror.oci.referrer import Referrer, fallback_tag
from mirror.records.rules import NO_REFERRERS, CopyOptions
from mirror.records.task import ReferrerCounts
from mirror.storage import layout
from tests.integration.jobs.referrer_jobs import (
    AMD64,
    BILL,
    COSIGN,
    INDEX,
    SBOM,
    SIGNATURE,
    SIGNED,
    SIGNED_BILL,
    SIGNED_CHILD,
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
from tests.support.harness import Harness

__all__ = ["mirror", "s3_server"]

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
