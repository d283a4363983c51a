"""Which signatures with a key count, and the reason why one does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mirror.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestInvalid,
    ManifestUnknown,
    RateLimited,
    SignatureRequired,
)
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.manifest import parse_manifest
from mirror.oci.referrer import EMPTY_TYPE, Referrer, cosign_tags
from mirror.signatures.documents import COSIGN_ARTIFACT_TYPE, SIMPLE_SIGNING_TYPE
from mirror.signatures.keys import public_key
from mirror.signatures.policy import SignaturePolicy, key_of
from mirror.signatures.roots import TrustedRoots
from mirror.signatures.verify import (
    MAX_SIGNATURE_SIZE,
    MAX_SIGNATURES,
    SignatureCandidate,
    check_all,
    may_be_signature,
    signature_tag,
)
from tests.support.sigstore import BUNDLE, COSIGN_SIGN, b64, envelope, pae, statement
from tests.unit.signatures.made import (
    KEY,
    NOW,
    OTHER,
    OTHER_KEY,
    SIGNATURE,
    SUBJECT,
    PrivateKey,
    bundled,
    candidate,
    checked,
    cosign_2,
    cosign_3,
    key_bundle,
    layer,
    of,
    payload,
    pem,
    refusal,
    signed,
    simple,
)

SIGNER = f"key {public_key(pem(KEY)).id}"
NO_KEY = "none of the keys of the policy has signed it"


@pytest.mark.parametrize(
    ("found", "form"),
    [
        (cosign_2(), "cosign-tag"),
        (cosign_2(is_tagged=False), "cosign-referrer"),
        (cosign_3(), "bundle"),
        (cosign_2(payload(kind=COSIGN_SIGN)), "cosign-tag"),
    ],
)
def test_a_signature_with_a_key_of_the_policy_is_accepted(found: SignatureCandidate, form: str) -> None:
    verdict = checked(found)
    assert verdict.signer == SIGNER
    assert verdict.form == form
    assert verdict.signature == found.name
    assert verdict.policy == SignaturePolicy.parse(keys=[pem(KEY)]).key
    assert verdict.verified_at == "2026-11-29T12:00:00+00:00"


KEYS: list[tuple[PrivateKey, hashes.HashAlgorithm | None]] = [
    (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
    (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    (ed25519.Ed25519PrivateKey.generate(), None),
    (rsa.generate_private_key(65537, 2048), None),
]


@pytest.mark.parametrize(("key", "algorithm"), KEYS, ids=["P-384 SHA-256", "P-384 SHA-384", "Ed25519", "RSA"])
def test_all_kinds_of_keys_of_cosign_are_accepted(key: PrivateKey, algorithm: hashes.HashAlgorithm | None) -> None:
    policy = SignaturePolicy.parse(keys=[pem(OTHER_KEY), pem(key)])
    content, statement_ = payload(), statement(SUBJECT)
    old = candidate(simple(content, signed(content, key, algorithm)), content)
    sealed = envelope(statement_, signed(pae(statement_), key, algorithm))
    new = bundled(key_bundle(statement_) | {"dsseEnvelope": sealed})
    for found in (old, new):
        assert checked(found, policy=policy).signer == f"key {public_key(pem(key)).id}"
        assert NO_KEY in refusal(found)


def test_a_bundle_with_a_signature_of_the_manifest_itself_is_accepted() -> None:
    assert checked(bundled(message(b"an image"))).form == "bundle"
    assert "names another digest" in refusal(bundled(message(b"another image", OTHER_KEY)))
    ed = ed25519.Ed25519PrivateKey.generate()
    policy = SignaturePolicy.parse(keys=[pem(ed)])
    assert "Ed25519ph" in refusal(bundled(message(b"an image", ed)), policy=policy)


def message(content: bytes, key: PrivateKey = KEY) -> dict[str, Any]:
    made = key_bundle(b"")
    del made["dsseEnvelope"]
    digest = {"algorithm": "SHA2_256", "digest": b64(bytes.fromhex(Digest.of(content).hex))}
    return made | {"messageSignature": {"messageDigest": digest, "signature": b64(signed(content, key))}}


def test_a_subject_of_sha512_is_accepted() -> None:
    subject = Digest.of(b"an image", "sha512")
    for found in (cosign_2(payload(subject)), cosign_3(subject)):
        assert checked(found, subject=subject).signer == SIGNER


def test_an_unsigned_image_is_refused() -> None:
    assert refusal() == "it has no signature"
    sbom = candidate(layer(b"sbom", "application/spdx+json"), b"sbom")
    assert refusal(sbom) == "it has no signature"


def test_an_attestation_is_no_signature() -> None:
    provenance = statement(SUBJECT, "https://slsa.dev/provenance/v1")
    assert refusal(bundled(key_bundle(provenance))) == "it has no signature, only attestations"
    assert checked(bundled(key_bundle(provenance)), cosign_3()).form == "bundle"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (cosign_2(key=OTHER_KEY), NO_KEY),
        (cosign_3(key=OTHER_KEY), NO_KEY),
        (cosign_2(payload(OTHER)), f"it is a good signature of {SIGNER}, but of another digest, {OTHER}"),
        (cosign_3(OTHER), f"it is a good signature of {SIGNER}, but of another digest, {OTHER}"),
        (
            candidate(simple(payload(OTHER), signed(payload())), payload(OTHER)),
            f"its payload names another digest, {OTHER}, and {NO_KEY}",
        ),
        (candidate(simple(payload(), signed(payload(OTHER))), payload()), NO_KEY),
        (cosign_2(b"{"), "its payload is damaged: it is not JSON"),
        (cosign_2(b"[]"), "its payload is damaged: it is not a JSON object"),
        (cosign_2(payload(image={})), "it has no 'docker-manifest-digest'"),
        (cosign_2(payload(image={"docker-manifest-digest": 1})), "is not a text"),
        (cosign_2(payload(image={"docker-manifest-digest": "md5:1"})), "it names a malformed digest"),
        (cosign_2(payload(image=[])), "a part of it is not an object"),
        (cosign_2(payload(Image={"docker-manifest-digest": str(OTHER)})), "spells its field 'image' in another way"),
        (cosign_2(payload()[:-1] + b', "critical": {}}'), "it has a field twice"),
        (candidate(layer(payload(), SIMPLE_SIGNING_TYPE), payload()), "the annotation with the signature is missing"),
        (
            candidate(layer(payload(), SIMPLE_SIGNING_TYPE, {SIGNATURE: "*"}), payload()),
            "its signature is damaged: its base64 cannot be decoded",
        ),
        (bundled(b"{"), "its bundle is damaged"),
        (bundled(b'{"a":' * 100_000), "its bundle is damaged"),
        (bundled(json.dumps(key_bundle(statement(SUBJECT))).encode()[:-100]), "its bundle is damaged"),
        (bundled(key_bundle(statement(SUBJECT), mediaType="text/plain")), "the type 'text/plain', which is not"),
        (bundled(key_bundle(statement(SUBJECT)) | message(b"an image")), "no signature, or two kinds of them"),
        (bundled(key_bundle(statement(SUBJECT), dsseEnvelope=None)), "no signature, or two kinds of them"),
        (bundled(key_bundle(statement(SUBJECT), DsseEnvelope={})), "spells its field 'dsseEnvelope' in another way"),
        (bundled(key_bundle(statement(SUBJECT), dsseEnvelope=[])), "a part of it is not an object"),
        (bundled(key_bundle(statement(SUBJECT, subject=[]))), "its statement has no subject"),
        (bundled(key_bundle(statement(SUBJECT, subject=[{}] * 1001))), "its statement has no subject, or more than"),
        (bundled(key_bundle(statement(SUBJECT, subject=[1]))), "a part of it is not an object"),
        (bundled(key_bundle(statement(SUBJECT, subject=[{"digest": {"sha1": "a"}}]))), "none that is supported"),
        (bundled(key_bundle(statement(SUBJECT, subject=[{"digest": {"sha256": "a"}}]))), "a malformed digest"),
        (bundled(key_bundle(statement(SUBJECT, _type="other"))), "of an unknown version"),
        (bundled(key_bundle(statement(SUBJECT)[:-1] + b', "subject": []}')), "it has a field twice"),
        (
            bundled(key_bundle(b"") | {"dsseEnvelope": envelope(statement(SUBJECT))}),
            "its envelope has no signature, or more than",
        ),
        (
            bundled(key_bundle(b"") | {"dsseEnvelope": envelope(statement(SUBJECT), *[b"x"] * 11)}),
            "its envelope has no signature, or more than",
        ),
    ],
)
def test_each_refusal_has_its_own_reason(found: SignatureCandidate, reason: str) -> None:
    refused = refusal(found)
    assert refused.startswith("none of its signatures is accepted: sha256:")
    assert reason in refused


def test_a_signature_over_other_bytes_than_the_envelopes_does_not_count() -> None:
    """DSSE signs the type of the payload, too. A signature of the bare payload is one of something else."""
    content = statement(SUBJECT)
    assert NO_KEY in refusal(bundled(key_bundle(content, dsseEnvelope=envelope(content, signed(content)))))
    other_type = envelope(content, signed(pae(content)), payload_type="text/plain")
    assert refusal(bundled(key_bundle(content, dsseEnvelope=other_type))) == "it has no signature, only attestations"


def test_any_subject_of_a_statement_and_any_signature_of_an_envelope_counts() -> None:
    subjects = [{"digest": {"sha256": OTHER.hex}}, {"name": "app", "digest": {"sha256": SUBJECT.hex}}]
    content = statement(SUBJECT, subject=subjects)
    sealed = envelope(content, signed(pae(content), OTHER_KEY), signed(pae(content)))
    assert checked(bundled(key_bundle(content, dsseEnvelope=sealed))).signer == SIGNER


def test_content_that_is_not_what_its_layer_says_is_refused() -> None:
    content = payload()
    described = simple(content, signed(content))
    for held, reason in [
        (content[:-1], f"it is truncated: it has {len(content) - 1} bytes and should have {len(content)}"),
        (content.replace(b"app", b"APP"), "it is damaged: its bytes do not have its digest"),
    ]:
        found = candidate(described)
        assert reason in refusal(of(found.manifest(), lambda _, held=held: held))  # type: ignore[misc]


def test_a_layer_that_is_too_large_is_not_read() -> None:
    described = layer(b"", SIMPLE_SIGNING_TYPE) | {"size": MAX_SIGNATURE_SIZE + 1}

    def read(_: Descriptor) -> bytes:
        raise AssertionError("it must not be read")

    assert "more than 1048576" in refusal(of(candidate(described).manifest(), read))


def test_content_in_the_manifest_itself_is_not_read() -> None:
    content = payload()
    described = simple(content, signed(content)) | {"data": b64(content)}
    assert checked(candidate(described)).signer == SIGNER


def test_a_broken_signature_does_not_hide_a_good_one() -> None:
    broken = [bundled(b"{"), cosign_2(key=OTHER_KEY), candidate(layer(b"", "text/plain")), cosign_3(OTHER)]
    assert checked(*broken, cosign_2()).signer == SIGNER
    content, wrong = payload(), payload(OTHER)
    both = [simple(wrong, signed(wrong)), simple(content, signed(content))]
    assert checked(candidate(both, content, wrong)).signer == SIGNER


def failing(error: Exception) -> SignatureCandidate:
    def read(_: Descriptor) -> bytes:
        raise error

    return of(cosign_2().manifest(), read)


def test_a_signature_that_cannot_be_reached_is_not_taken_for_a_missing_one() -> None:
    limited = failing(RateLimited("registry.test", 5))
    with pytest.raises(RateLimited):
        checked(limited, cosign_2(key=OTHER_KEY))
    assert checked(limited, cosign_2()).signer == SIGNER


def test_a_signature_whose_content_is_gone_or_wrong_at_the_source_is_refused() -> None:
    gone = failing(BlobUnknown("registry.test", "registry.test/team/app", "sha256:1"))
    wrong = failing(DigestMismatch("sha256:1", "sha256:2"))
    assert refusal(gone, wrong).count("its content cannot be had: ") == 2


def test_a_manifest_that_cannot_be_read_is_handled_as_content_is() -> None:
    def unread(error: Exception) -> SignatureCandidate:
        def read() -> ManifestContent:
            raise error

        return SignatureCandidate("team/app:sha256-1.sig", read, lambda _: b"")

    limited = unread(RateLimited("registry.test", 5))
    gone, damaged = unread(ManifestUnknown("team/app:sha256-1.sig")), unread(ManifestInvalid("x", "it is not JSON"))
    assert checked(limited, gone, damaged, cosign_2()).signer == SIGNER
    with pytest.raises(RateLimited):
        checked(gone, limited, cosign_2(key=OTHER_KEY))
    assert "team/app:sha256-1.sig: its content cannot be had: it is not JSON" in refusal(damaged)
    assert "team/app:sha256-1.sig: its content cannot be had: " in refusal(gone)


def test_nothing_is_read_after_a_good_signature() -> None:
    def read() -> ManifestContent:
        raise AssertionError("it must not be read")

    assert checked(cosign_2(), SignatureCandidate("later", read, lambda _: b"")).signer == SIGNER


def test_of_several_policies_each_must_be_satisfied() -> None:
    policies = [SignaturePolicy.parse(keys=[pem(key)]) for key in (KEY, OTHER_KEY)]
    both = [cosign_2(), cosign_3(key=OTHER_KEY)]
    verdict = check_all(policies, SUBJECT, both, roots=TrustedRoots(None), now=NOW)
    assert verdict.signer == f"{SIGNER} and key {public_key(pem(OTHER_KEY)).id}"
    assert verdict.policy == key_of(policies) == key_of(policies[::-1])
    assert check_all(policies[:1], SUBJECT, both, roots=TrustedRoots(None), now=NOW) == checked(*both)
    with pytest.raises(SignatureRequired, match=NO_KEY):
        check_all(policies, SUBJECT, both[:1], roots=TrustedRoots(None), now=NOW)


def test_only_the_first_hundred_signatures_are_checked_and_few_reasons_are_told() -> None:
    wrong = cosign_2(key=OTHER_KEY)
    assert checked(*[wrong] * (MAX_SIGNATURES - 1), cosign_2()).signer == SIGNER
    reason = refusal(*[wrong] * MAX_SIGNATURES, cosign_2())
    assert reason.endswith("; and 95 more; only the first 100 were checked")
    assert reason.count(NO_KEY) == 5
    assert len(reason) < 1000


def test_a_reason_never_repeats_a_long_or_unprintable_text() -> None:
    hostile = bundled(key_bundle(statement(SUBJECT), mediaType="\n\x1b" * 5000))
    reason = refusal(hostile)
    assert reason.isprintable()
    assert len(reason) < 600


def test_an_index_is_no_signature() -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}).encode()
    parsed = parse_manifest(body, None, what="it")
    content = ManifestContent(Descriptor(media_types.OCI_INDEX, Digest.of(body), len(body)), body, parsed)
    assert refusal(of(content, lambda _: b"")) == "it has no signature"


@pytest.mark.parametrize("annotations", [None, [], "text", {SIGNATURE: 1}])
def test_annotations_of_a_wrong_type_are_refused(annotations: object) -> None:
    content = payload()
    found = candidate(layer(content, SIMPLE_SIGNING_TYPE) | {"annotations": annotations}, content)
    assert "damaged" in refusal(found)


def listed(artifact_type: str, **annotations: str) -> Referrer:
    named = {name.replace("_", "."): text for name, text in annotations.items()}
    return Referrer(Descriptor(media_types.OCI_MANIFEST, SUBJECT, 1), artifact_type, named)


@pytest.mark.parametrize(
    ("referrer", "may_be"),
    [
        (listed(""), True),
        (listed(EMPTY_TYPE), True),
        (listed(COSIGN_ARTIFACT_TYPE), True),
        (listed(BUNDLE), True),
        (listed(BUNDLE, dev_sigstore_bundle_predicateType=COSIGN_SIGN), True),
        (listed(BUNDLE, dev_sigstore_bundle_predicateType="https://slsa.dev/provenance/v1"), False),
        (listed("application/spdx+json"), False),
        (listed("application/vnd.cncf.notary.signature"), False),
    ],
)
def test_only_what_may_be_a_signature_is_fetched(referrer: Referrer, may_be: bool) -> None:
    assert may_be_signature(referrer) is may_be


def test_the_tag_of_signatures_is_one_of_cosigns_tags() -> None:
    assert signature_tag(SUBJECT) in cosign_tags(SUBJECT)


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(SignatureRequired) as refused:
        checked()
    assert refused.value.message == f"The image {SUBJECT} was not published: it has no signature"
    assert "Sign the image" in refused.value.hint
