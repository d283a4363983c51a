"""The mirror's own statement about what it mirrored, in a real bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mirror.catalog.publish import Publisher
from mirror.catalog.referrers import ReferrerLists
from mirror.errors import StorageUnavailable
from mirror.jobs.release import JobReleaser
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import Manifest
from mirror.oci.platform import PlatformPattern
from mirror.oci.referrer import cosign_tags, fallback_tag
from mirror.records.job import Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.rules import PLAIN_COPY, CopyOptions, PlatformRules
from mirror.signatures.attestation import BUNDLE_TYPE, SUMMARY_TYPE, Signer
from mirror.signatures.policy import SignaturePolicy
from mirror.storage import layout
from tests.support import images
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import Harness, mark_built
from tests.support.images import TestImage
from tests.support.servers.s3 import RcloneS3
from tests.support.sigstore import statement as signed_statement

KEY, OTHER_KEY = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
URL = "https://mirror.corp"
TARGET = LocalImage("team/app", "1")
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
IMAGE = images.three_platforms("attested")


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """What is written here is written by the same code as images, which are tested on both servers."""
    return rclone_s3


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(referrers_api=True) as fake:
        yield fake


@pytest.fixture
def mirror(harness: Harness) -> Iterator[Harness]:
    """A mirror that attests what it mirrors."""
    mark_built(harness.redis)
    harness.registry.put(IMAGE, "team/app", "1")
    attesting = harness.with_settings(attestation_key=KEY, public_url=URL)
    yield attesting
    attesting.core.close()


ALWAYS = CopyOptions(overwrite="always")


def run(mirror: Harness, options: CopyOptions = PLAIN_COPY, *, source: str = "team/app:1", atomic: bool = False) -> Job:
    """Mirror the image. Return the job after that."""
    request = ImageRequest(f"{mirror.registry.host}/{source}", str(TARGET), options=options)
    job, _ = mirror.core.submitter.submit([request], JobOptions(atomic=atomic))
    return mirror.run_tasks(job)


def listed(mirror: Harness, subject: Digest = IMAGE.digest) -> list[Digest]:
    return [referrer.digest for referrer in mirror.core.referrer_lists.listed("team/app", subject)]


def statements(mirror: Harness, subject: Digest = IMAGE.digest) -> list[dict[str, Any]]:
    """Return the statements of the mirror about *subject*, read as a client does, by way of its lists."""
    found = [_statement(mirror, digest) for digest in listed(mirror, subject)]
    return [statement for statement in found if statement]


def _statement(mirror: Harness, digest: Digest) -> dict[str, Any] | None:
    manifest = mirror.core.reader.image(LocalImage("team/app", digest=digest)).root.parsed
    assert isinstance(manifest, Manifest)
    [layer] = manifest.layers
    assert mirror.core.links.has_layer("team/app", layer.digest)
    assert mirror.core.links.has_layer("team/app", manifest.config.digest)
    return Signer(KEY, URL).own_statement(mirror.core.blobs.read(layer.digest, 100_000) or b"")


def own_count(mirror: Harness) -> int:
    return len(statements(mirror))


def test_a_published_image_has_a_statement_among_its_referrers(mirror: Harness) -> None:
    assert run(mirror).state == "succeeded"
    [referrer] = mirror.core.referrer_lists.listed("team/app", IMAGE.digest)
    assert referrer.artifact_type == BUNDLE_TYPE
    assert referrer.annotations["dev.sigstore.bundle.predicateType"] == SUMMARY_TYPE
    manifest = json.loads(mirror.core.reader.image(LocalImage("team/app", digest=referrer.digest)).root.body)
    assert manifest["subject"] == IMAGE.descriptor
    [statement] = statements(mirror)
    assert statement["subject"] == [{"name": "mirror.corp/team/app", "digest": {"sha256": IMAGE.digest.hex}}]
    predicate = statement["predicate"]
    assert predicate["verifier"] == {"id": URL}
    source = {"uri": f"oci://{mirror.registry.host}/team/app:1", "digest": {"sha256": IMAGE.digest.hex}}
    assert predicate["imagemirror_source"] == source
    assert predicate["timeVerified"] == referrer.annotations["org.opencontainers.image.created"]


def test_without_a_key_nothing_is_attested(mirror: Harness, harness: Harness) -> None:
    assert run(harness).state == "succeeded"
    assert listed(mirror) == []


def test_an_unchanged_image_gets_no_second_statement_and_costs_one_head(mirror: Harness) -> None:
    run(mirror)
    before = mirror.stored()
    mirror.registry.requests.clear()
    again = run(mirror)
    assert again.images.unchanged == 1
    assert [request.method for request in mirror.registry.log("api", path="/manifests/")] == ["HEAD"]
    assert mirror.stored() == before


def test_an_image_that_is_published_again_gets_no_second_statement(mirror: Harness) -> None:
    run(mirror)
    again = run(mirror, ALWAYS)
    assert again.images.unchanged == 0
    assert own_count(mirror) == 1


def test_an_image_that_was_held_before_is_attested_when_it_is_published_again(
    mirror: Harness, harness: Harness
) -> None:
    run(harness)
    assert run(mirror).images.unchanged == 1
    assert statements(mirror) == []
    run(mirror, ALWAYS)
    assert own_count(mirror) == 1


def test_a_new_key_adds_its_own_statement(mirror: Harness) -> None:
    older = mirror.with_settings(attestation_key=OTHER_KEY)
    run(older)
    run(mirror, ALWAYS)
    assert (len(listed(mirror)), own_count(mirror)) == (2, 1)
    older.core.close()


def test_the_same_image_from_another_source_gets_another_statement(mirror: Harness) -> None:
    mirror.registry.put(IMAGE, "team/other", "1")
    for _ in range(2):
        run(mirror, ALWAYS)
        run(mirror, ALWAYS, source="team/other:1")
    sources = [statement["predicate"]["imagemirror_source"]["uri"] for statement in statements(mirror)]
    assert sources == [f"oci://{mirror.registry.host}/team/{name}:1" for name in ("app", "other")]


def test_the_signature_that_a_policy_required_is_named(mirror: Harness) -> None:
    bundle = Signer(OTHER_KEY, URL).sign(json.loads(signed_statement(IMAGE.digest)))
    signature = images.artifact(BUNDLE_TYPE, bundle, subject=IMAGE)
    mirror.registry.put(signature, "team/app")
    pem = OTHER_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    policy = SignaturePolicy.parse(keys=[pem])
    assert run(mirror, CopyOptions(signature=policy)).state == "succeeded"
    [statement] = statements(mirror)
    predicate = statement["predicate"]
    assert predicate["policy"] == {"uri": f"{URL}#signature-{policy.key}"}
    assert predicate["inputAttestations"] == [{"digest": {"sha256": signature.digest.hex}}]
    assert predicate["verifiedLevels"][-1] == "IMAGE_MIRROR_SIGNATURE_VERIFIED"


def test_a_rewritten_image_is_attested_by_its_own_digest(mirror: Harness) -> None:
    rules = PlatformRules((PlatformPattern.parse("linux/arm64"),), "rewrite")
    job = run(mirror, CopyOptions(rules))
    assert job.digest
    [statement] = statements(mirror, Digest.parse(job.digest))
    assert job.digest == f"sha256:{statement['subject'][0]['digest']['sha256']}"
    assert statement["predicate"]["imagemirror_source"]["digest"] == {"sha256": IMAGE.digest.hex}
    assert listed(mirror) == []


def put(mirror: Harness, kind: str, *tags: str) -> Digest:
    """Let the source have a referrer of the image, of an artifact type, or under tags."""
    artifact = images.artifact(kind, f"upstream's {kind}".encode(), subject=None if tags else IMAGE)
    for tag in tags or (None,):
        mirror.registry.put(artifact, "team/app", tag)
    return artifact.digest


def cosign_tag(suffix: str) -> str:
    [tag] = [tag for tag in cosign_tags(IMAGE.digest) if tag.endswith(suffix)]
    return tag


@pytest.mark.parametrize("kind", [BUNDLE_TYPE, "application/vnd.cncf.notary.signature"])
def test_the_referrers_of_upstream_stay_listed_as_they_were(mirror: Harness, harness: Harness, kind: str) -> None:
    put(mirror, kind)
    run(harness)
    before = mirror.core.referrer_lists.listed("team/app", IMAGE.digest)
    assert len(before) == 1
    run(mirror, ALWAYS)
    assert mirror.core.referrer_lists.listed("team/app", IMAGE.digest)[:1] == before
    assert own_count(mirror) == 1


@pytest.mark.parametrize("suffix", [".sig", ".att"])
def test_tags_of_cosign_2_are_not_hidden_by_a_bundle(mirror: Harness, suffix: str) -> None:
    signature = put(mirror, SIMPLE_SIGNING, cosign_tag(suffix))
    assert run(mirror).state == "succeeded"
    assert mirror.core.changes.current(LocalImage("team/app", cosign_tag(suffix))) == signature
    assert listed(mirror) == []


def test_an_sbom_under_a_tag_of_cosign_2_cannot_be_hidden(mirror: Harness) -> None:
    put(mirror, SIMPLE_SIGNING, cosign_tag(".sbom"))
    run(mirror)
    assert own_count(mirror) == 1


def test_next_to_a_bundle_of_upstream_a_statement_hides_no_tag(mirror: Harness) -> None:
    put(mirror, SIMPLE_SIGNING, cosign_tag(".sig"))
    put(mirror, BUNDLE_TYPE)
    run(mirror)
    assert own_count(mirror) == 1


def test_a_statement_gives_way_to_a_tag_of_cosign_2_that_comes_later(mirror: Harness) -> None:
    other = put(mirror, "application/vnd.example.sbom")
    run(mirror)
    assert own_count(mirror) == 1
    signature = put(mirror, SIMPLE_SIGNING, cosign_tag(".sig"))
    assert run(mirror).images.unchanged == 1
    assert mirror.core.changes.current(LocalImage("team/app", cosign_tag(".sig"))) == signature
    assert listed(mirror) == [other]
    tag = LocalImage("team/app", fallback_tag(IMAGE.digest))
    assert mirror.core.reader.image(tag).digest == mirror.core.changes.current(tag)


def test_a_signature_that_is_mirrored_by_its_tag_gets_no_statement(mirror: Harness) -> None:
    signature = put(mirror, SIMPLE_SIGNING, cosign_tag(".sig"))
    name = f"team/app:{cosign_tag('.sig')}"
    assert mirror.mirror(name, name).state == "succeeded"
    assert listed(mirror, signature) == []


DEATHS: list[tuple[type, str, bool, int]] = [
    (ReferrerLists, "add", False, 0),
    (Publisher, "publish", False, 1),
    (Publisher, "stage", True, 1),
    (JobReleaser, "release", True, 1),
]


@pytest.mark.parametrize(("owner", "step", "atomic", "written"), DEATHS, ids=[step for _, step, *_ in DEATHS])
def test_whatever_step_kills_the_worker_no_tag_is_without_its_statement(
    mirror: Harness, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, atomic: bool, written: int
) -> None:
    class Killed(BaseException):
        """No code of the mirror handles it."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, die)
        with pytest.raises(Killed):
            run(mirror, atomic=atomic)
    assert mirror.core.changes.current(TARGET) is None
    assert own_count(mirror) == written
    assert run(mirror, atomic=atomic).state == "succeeded"
    assert mirror.core.changes.current(TARGET) == IMAGE.digest
    assert own_count(mirror) == 1


def test_an_image_that_cannot_be_attested_is_not_published(mirror: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageUnavailable("write the list", "connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(ReferrerLists, "add", fail)
        job = run(mirror)
    assert (job.state, mirror.core.changes.current(TARGET)) == ("queued", None)
    [task] = mirror.jobs.tasks(job.id, 1)
    assert task.waiting_for
    assert task.waiting_for.reason == "storage_unavailable"


def test_forged_and_damaged_statements_keep_no_image_from_its_own(mirror: Harness) -> None:
    for content in (Signer(OTHER_KEY, URL).sign({"predicate": {}}), b"{", b"lost"):
        artifact = images.artifact(BUNDLE_TYPE, content, subject=IMAGE)
        body = json.loads(artifact.body) | {"annotations": {"dev.sigstore.bundle.predicateType": SUMMARY_TYPE}}
        mirror.registry.put(TestImage(json.dumps(body).encode(), artifact.media_type, artifact.blobs), "team/app")
    run(mirror)
    assert len(listed(mirror)) == 4
    mirror.bucket.delete([layout.blob_key(Digest.of(b"lost"))])
    assert own_count(mirror) == 1
    run(mirror, ALWAYS)
    assert own_count(mirror) == 1
