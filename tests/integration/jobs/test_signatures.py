"""The signatures of an image are found at its source and checked. Nothing is stored for that."""

from __future__ import annotations

import json

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.errors import MirrorError, SignatureRequired
from mirror.jobs.claim import ClaimedCopy
from mirror.jobs.signatures import SignatureRequirement
from mirror.jobs.submit import ImageRequest
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.referrer import Referrer, fallback_tag, write_list
from mirror.queue import NORMAL
from mirror.records.rules import CopyOptions
from mirror.signatures.policies import SignaturePolicies
from mirror.signatures.policy import SignaturePolicy, SignatureVerdict, key_of
from mirror.signatures.roots import TrustedRoots
from mirror.signatures.verify import signature_tag
from tests.support import images
from tests.support.fakes.registry import Reply
from tests.support.harness import Harness
from tests.support.images import TestImage
from tests.support.servers.s3 import RcloneS3
from tests.support.sigstore import BUNDLE, COSIGN_SIGN, statement
from tests.unit.signatures.made import KEY, OTHER_KEY, PrivateKey, key_bundle, manifest, payload, pem, signed, simple

IMAGE = images.image(images.layer("signed"))
TAG = signature_tag(IMAGE.digest)
POLICY, OTHER_POLICY = (SignaturePolicy.parse(keys=[pem(key)]) for key in (KEY, OTHER_KEY))


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """Nothing is stored. Any S3 server will do."""
    return rclone_s3


@pytest.fixture(params=["API", "fallback tag"])
def mirror(request: pytest.FixtureRequest, harness: Harness) -> Harness:
    """A mirror, and a registry that has the referrers API or not."""
    harness.registry.referrers_api = request.param == "API"
    harness.registry.put(IMAGE, "team/app", "1")
    return harness


def bundle(key: PrivateKey = KEY, predicate: str = COSIGN_SIGN) -> TestImage:
    """Return what cosign 3 pushes."""
    raw = json.dumps(key_bundle(statement(IMAGE.digest, predicate), key)).encode()
    return images.artifact(BUNDLE, raw, subject=IMAGE)


def tagged(key: PrivateKey = KEY) -> TestImage:
    """Return what cosign 2 pushes under a tag."""
    content = payload(IMAGE.digest)
    body = manifest(simple(content, signed(content, key))).body
    return TestImage(body, media_types.OCI_MANIFEST, {Digest.of(content): content})


def attach(mirror: Harness, *referrers: TestImage) -> None:
    """Push referrers of the image, as a client does."""
    for one in referrers:
        mirror.registry.put(one, "team/app")
    if not mirror.registry.referrers_api:
        entries = [Referrer(Descriptor(one.media_type, one.digest, len(one.body)), BUNDLE) for one in referrers]
        index = TestImage(write_list(entries), media_types.OCI_INDEX)
        mirror.registry.put(index, "team/app", fallback_tag(IMAGE.digest))


def claimed(mirror: Harness, policy: SignaturePolicy | None) -> ClaimedCopy:
    request = ImageRequest(f"{mirror.registry.host}/team/app:1", options=CopyOptions(signature=policy))
    _, [task] = mirror.core.submitter.submit([request])
    [found] = mirror.core.claimer.claim([(task.id, task.fence, NORMAL)], Cancellation())
    assert isinstance(found, ClaimedCopy)
    return found


def verified(mirror: Harness, policy: SignaturePolicy | None = POLICY, settings: str = "") -> SignatureVerdict | None:
    """Check the image as a task does that has *policy*. Nothing is stored."""
    core, before = mirror.core, mirror.stored()
    policies, roots = SignaturePolicies.parse(settings), TrustedRoots(None)
    requirement = SignatureRequirement(policies, roots, core.referrers.finder, core.resolver, core.source)
    task = claimed(mirror, policy)
    try:
        with core.referrers.copier.manifest_memory(task.spec.source, task.cancellation) as memory:
            verdict = requirement.verify(task, IMAGE.digest, memory)
        assert (verdict and verdict.policy) == requirement.key(task.spec)
        return verdict
    finally:
        task.end()
        assert mirror.stored() == before


def test_a_signature_is_found_as_a_referrer_and_under_cosigns_tag(mirror: Harness) -> None:
    new, old = bundle(), tagged()
    attach(mirror, bundle(OTHER_KEY), new)
    found = verified(mirror)
    assert found is not None
    assert (found.form, found.signature) == ("bundle", str(new.digest))
    mirror.registry.put(old, "team/app", TAG)
    found = verified(mirror)
    assert found is not None
    assert (found.form, found.signature) == ("cosign-tag", str(old.digest))


def test_without_a_policy_nothing_is_asked(mirror: Harness) -> None:
    assert verified(mirror, None) is None
    assert list(mirror.registry.requests) == []


def test_the_policies_of_the_settings_and_of_the_job_must_both_be_satisfied(mirror: Harness) -> None:
    asked = json.dumps([{"sources": [f"{mirror.registry.host}/team/*"], "keys": [pem(OTHER_KEY)]}])
    attach(mirror, bundle())
    with pytest.raises(SignatureRequired, match="none of the keys of the policy has signed it"):
        verified(mirror, POLICY, asked)
    mirror.registry.put(tagged(OTHER_KEY), "team/app", TAG)
    found = verified(mirror, POLICY, asked)
    assert found is not None
    assert found.policy == key_of([POLICY, OTHER_POLICY])


def test_an_unsigned_image_is_refused(mirror: Harness) -> None:
    with pytest.raises(SignatureRequired, match="it has no signature"):
        verified(mirror)
    attach(mirror, bundle(predicate="https://slsa.dev/provenance/v1"))
    with pytest.raises(SignatureRequired, match="it has no signature, only attestations"):
        verified(mirror)


@pytest.mark.parametrize("part", ["/referrers/", "/tags/list", "sha256-", "/blobs/"])
def test_a_registry_that_fails_is_never_taken_for_one_without_signatures(mirror: Harness, part: str) -> None:
    attach(mirror, bundle())
    mirror.registry.put(tagged(), "team/app", TAG)
    mirror.registry.script(lambda request, _: Reply(503) if part in request.path else None)
    with pytest.raises(MirrorError) as refused:
        verified(mirror)
    assert refused.value.code != "SIGNATURE_REQUIRED"
    assert refused.value.retryable


def test_a_signature_that_is_gone_or_damaged_at_the_source_is_a_reason(mirror: Harness) -> None:
    attach(mirror, bundle())
    mirror.registry.script(lambda request, _: Reply(404) if "/blobs/" in request.path else None)
    with pytest.raises(SignatureRequired, match="its content cannot be had"):
        verified(mirror)
    mirror.registry.script(lambda request, _: Reply(200, {}, b"x") if "/blobs/" in request.path else None)
    with pytest.raises(SignatureRequired):
        verified(mirror)
