"""An image is published only if it was signed as its policies ask. Otherwise nothing of it is stored."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.referrer import Referrer, fallback_tag, write_list
from mirror.records.job_request import ImageRequest
from mirror.records.rules import NO_REFERRERS, CopyOptions
from mirror.records.task import Task
from mirror.signatures.policies import SignaturePolicies
from mirror.signatures.policy import SignaturePolicy, SignatureVerdict, key_of
from mirror.signatures.verify import signature_tag
from tests.support import images
from tests.support.fakes.registry import Reply
from tests.support.harness import Harness, mark_built
from tests.support.images import TestImage
from tests.support.servers.s3 import RcloneS3
from tests.support.sigstore import BUNDLE, COSIGN_SIGN, statement
from tests.unit.signatures.made import KEY, OTHER_KEY, PrivateKey, key_bundle, manifest, payload, pem, signed, simple

IMAGE = images.image(images.layer("signed"))
TAG = signature_tag(IMAGE.digest)
POLICY, OTHER_POLICY = (SignaturePolicy.parse(keys=[pem(key)]) for key in (KEY, OTHER_KEY))


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source. Any S3 server will do."""
    return rclone_s3


@pytest.fixture(params=["API", "fallback tag"])
def mirror(request: pytest.FixtureRequest, harness: Harness) -> Harness:
    """A mirror, and a registry that has the referrers API or not."""
    mark_built(harness.redis)
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
    return TestImage(body, media_types.OCI_MANIFEST, {Digest.of(one): one for one in (b"{}", content)})


def attach(mirror: Harness, *referrers: TestImage) -> None:
    """Push referrers of the image, as a client does."""
    for one in referrers:
        mirror.registry.put(one, "team/app")
    if not mirror.registry.referrers_api:
        entries = [Referrer(Descriptor(one.media_type, one.digest, len(one.body)), BUNDLE) for one in referrers]
        index = TestImage(write_list(entries), media_types.OCI_INDEX)
        mirror.registry.put(index, "team/app", fallback_tag(IMAGE.digest))


def run(mirror: Harness, policy: SignaturePolicy | None = POLICY) -> Task:
    """Mirror the image with *policy*, as a work horse does. Return its task."""
    request = ImageRequest(f"{mirror.registry.host}/team/app:1", "team/app:1", options=CopyOptions(signature=policy))
    job = mirror.run_work_horses(mirror.core.submitter.submit([request])[0])
    [task] = mirror.jobs.tasks(job.id, 2)
    return task


def verified(task: Task) -> SignatureVerdict:
    assert (task.state, task.error) == ("succeeded", None)
    assert task.signature
    return task.signature


def reason(task: Task) -> str:
    """Return why the image was refused."""
    assert task.error
    assert (task.state, task.error.code, task.error.retryable) == ("failed", "SIGNATURE_REQUIRED", False)
    return task.error.message


@contextmanager
def nothing_appears(mirror: Harness) -> Iterator[None]:
    """Poll the tag and the manifest all the time. Nothing of the image may be readable or stored."""
    seen: list[object] = []
    polled, is_over = threading.Event(), threading.Event()

    def poll() -> None:
        while not is_over.is_set():
            links = mirror.core.links
            if links.current("team/app", "1") or links.has_revision("team/app", IMAGE.digest):
                seen.append("the image")
            polled.set()

    before, poller = mirror.stored(), threading.Thread(target=poll)
    poller.start()
    try:
        assert polled.wait(60)
        yield
        polled.clear()
        assert polled.wait(60), "polled once more after the end"
    finally:
        is_over.set()
        poller.join()
    assert not seen
    assert mirror.stored() == before


def test_a_signature_is_found_among_the_referrers(mirror: Harness) -> None:
    new = bundle()
    attach(mirror, bundle(OTHER_KEY), new)
    found = verified(run(mirror))
    assert (found.form, found.signature, found.policy) == ("bundle", str(new.digest), POLICY.key)
    shown = mirror.core.reader.inspect(LocalImage.parse("team/app:1")).provenance
    assert shown
    assert shown.signature == found


def test_a_signature_under_cosigns_tag_is_enough(mirror: Harness) -> None:
    old = tagged()
    mirror.registry.put(old, "team/app", TAG)
    found = verified(run(mirror))
    assert (found.form, found.signature) == ("cosign-tag", str(old.digest))


def test_an_image_that_was_checked_is_not_checked_again(mirror: Harness) -> None:
    attach(mirror, bundle())
    first = verified(run(mirror))
    mirror.registry.requests.clear()
    again = run(mirror)
    assert (again.unchanged, again.signature) == (True, first)
    assert not [r for r in list(mirror.registry.requests) if r.method == "GET" and "/manifests/" in r.path]


def test_another_policy_checks_an_unchanged_image(mirror: Harness) -> None:
    """A tag that is there already stays where it is if its image is not signed as a new policy asks."""
    attach(mirror, bundle())
    assert run(mirror, None).signature is None
    assert verified(run(mirror)).policy == POLICY.key
    before = mirror.stored()
    assert "none of the keys of the policy has signed it" in reason(run(mirror, OTHER_POLICY))
    assert mirror.core.links.current("team/app", "1") == IMAGE.digest
    assert mirror.stored() == before


def test_without_a_policy_nothing_is_checked(mirror: Harness) -> None:
    attach(mirror, bundle(OTHER_KEY))
    task = run(mirror, None)
    assert (task.state, task.signature) == ("succeeded", None)


def test_the_policies_of_the_settings_and_of_the_job_must_both_be_satisfied(mirror: Harness) -> None:
    asked = json.dumps([{"sources": [f"{mirror.registry.host}/team/*"], "keys": [pem(OTHER_KEY)]}])
    strict = mirror.with_settings(signature_policies=SignaturePolicies.parse(asked))
    attach(mirror, bundle())
    with nothing_appears(mirror):
        assert "none of the keys of the policy has signed it" in reason(run(strict))
    mirror.registry.put(tagged(OTHER_KEY), "team/app", TAG)
    assert verified(run(strict)).policy == key_of([POLICY, OTHER_POLICY])


def test_an_unsigned_image_is_refused(mirror: Harness) -> None:
    with nothing_appears(mirror):
        assert "it has no signature" in reason(run(mirror))
    attach(mirror, bundle(predicate="https://slsa.dev/provenance/v1"))
    with nothing_appears(mirror):
        assert "it has no signature, only attestations" in reason(run(mirror))


def test_a_signature_of_another_digest_is_refused(mirror: Harness) -> None:
    other = Digest.of(b"another image")
    raw = json.dumps(key_bundle(statement(other), KEY)).encode()
    attach(mirror, images.artifact(BUNDLE, raw, subject=IMAGE))
    with nothing_appears(mirror):
        assert f"of another digest, {other}" in reason(run(mirror))


def test_a_damaged_or_truncated_bundle_is_refused(mirror: Harness) -> None:
    raw = json.dumps(key_bundle(statement(IMAGE.digest), KEY)).encode()
    attach(mirror, images.artifact(BUNDLE, raw[: len(raw) // 2], subject=IMAGE))
    with nothing_appears(mirror):
        assert "damaged" in reason(run(mirror))


@pytest.mark.parametrize("part", ["/referrers/", "/tags/list", "sha256-", "/blobs/"])
def test_a_registry_that_fails_is_never_taken_for_one_without_signatures(mirror: Harness, part: str) -> None:
    attach(mirror, bundle())
    mirror.registry.put(tagged(), "team/app", TAG)
    if part == "/referrers/":
        mirror.registry.referrers_api = True
    mirror.registry.script(lambda request, _: Reply(503) if part in request.path else None)
    with nothing_appears(mirror):
        task = run(mirror)
    found = task.error.code if task.error else task.waiting_for and task.waiting_for.reason
    assert found
    assert found != "SIGNATURE_REQUIRED"


def test_a_signature_that_is_gone_at_the_source_is_a_reason(mirror: Harness) -> None:
    attach(mirror, bundle())
    mirror.registry.script(lambda request, _: Reply(404) if "/blobs/" in request.path else None)
    with nothing_appears(mirror):
        assert "its content cannot be had" in reason(run(mirror))


def test_a_policy_needs_no_mirrored_referrers(mirror: Harness) -> None:
    attach(mirror, bundle())
    options = CopyOptions(signature=POLICY, referrers=NO_REFERRERS)
    request = ImageRequest(f"{mirror.registry.host}/team/app:1", "team/app:1", options=options)
    job = mirror.run_work_horses(mirror.core.submitter.submit([request])[0])
    [task] = mirror.jobs.tasks(job.id, 2)
    assert verified(task).form == "bundle"
    assert mirror.core.referrer_lists.listed("team/app", IMAGE.digest) == ()
