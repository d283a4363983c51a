"""The mirror's own statement: what it says, how it is signed, and how it is attached."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.manifest import Manifest, parse_manifest
from mirror.oci.media_types import OCI_INDEX, OCI_MANIFEST
from mirror.oci.referrer import Referrer, described
from mirror.signatures.attestation import (
    BUNDLE_TYPE,
    SUMMARY_TYPE,
    Mirroring,
    Signer,
    SigningKey,
    bundle_manifest,
    is_bundle,
    may_be_summary,
    says_the_same,
)
from mirror.signatures.policy import SignatureVerdict

P256 = generate_private_key(SECP256R1())
ED25519 = Ed25519PrivateKey.generate()
KEYS = pytest.mark.parametrize("key", [P256, ED25519], ids=["P-256", "Ed25519"])
VERIFIER = "https://mirror.corp"
MOMENT = "2026-11-29T02:30:00Z"
DIGEST, UPSTREAM, SIGNATURE = (Digest.of(name) for name in (b"image", b"upstream", b"signature"))
MIRRORING = Mirroring("mirror.corp/docker.io/library/redis", DIGEST, "docker.io/library/redis:7", DIGEST)
VERDICT = SignatureVerdict("key sha256:1234", "bundle", str(SIGNATURE), "0011aabb", MOMENT)


def signed(key: SigningKey = P256, mirroring: Mirroring = MIRRORING) -> dict[str, Any]:
    """Return the bundle of a statement, parsed."""
    signer = Signer(key, VERIFIER)
    bundle: dict[str, Any] = json.loads(signer.sign(signer.statement(mirroring, MOMENT)))
    return bundle


def verify_envelope(key: SigningKey, envelope: Mapping[str, Any]) -> None:
    """Verify a DSSE envelope as its specification says, without code of the mirror. Raises InvalidSignature."""
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    [entry] = envelope["signatures"]
    if isinstance(key, EllipticCurvePrivateKey):
        key.public_key().verify(base64.b64decode(entry["sig"]), message, ECDSA(SHA256()))
    else:
        key.public_key().verify(base64.b64decode(entry["sig"]), message)


def test_the_statement_claims_what_the_mirror_has_verified_and_no_more() -> None:
    assert Signer(P256, VERIFIER).statement(MIRRORING, MOMENT) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "mirror.corp/docker.io/library/redis", "digest": {"sha256": DIGEST.hex}}],
        "predicateType": "https://slsa.dev/verification_summary/v1",
        "predicate": {
            "verifier": {"id": "https://mirror.corp"},
            "timeVerified": MOMENT,
            "resourceUri": "oci://mirror.corp/docker.io/library/redis",
            "policy": {"uri": "https://mirror.corp#content"},
            "verificationResult": "PASSED",
            "verifiedLevels": ["SLSA_BUILD_LEVEL_UNEVALUATED", "IMAGE_MIRROR_CONTENT_VERIFIED"],
            "imagemirror_source": {"uri": "oci://docker.io/library/redis:7", "digest": {"sha256": DIGEST.hex}},
        },
    }


def test_an_accepted_signature_is_named_with_its_signer_and_its_policy() -> None:
    predicate = Signer(P256, VERIFIER).statement(replace(MIRRORING, verdict=VERDICT), MOMENT)["predicate"]
    assert predicate["policy"] == {"uri": "https://mirror.corp#signature-0011aabb"}
    assert predicate["inputAttestations"] == [{"digest": {"sha256": SIGNATURE.hex}}]
    assert predicate["imagemirror_signer"] == "key sha256:1234"
    assert predicate["verifiedLevels"][1:] == ["IMAGE_MIRROR_CONTENT_VERIFIED", "IMAGE_MIRROR_SIGNATURE_VERIFIED"]


def test_no_level_of_slsa_is_claimed_with_or_without_a_signature() -> None:
    for verdict in (None, VERDICT):
        predicate = Signer(P256, VERIFIER).statement(replace(MIRRORING, verdict=verdict), MOMENT)["predicate"]
        slsa = [level for level in predicate["verifiedLevels"] if level.startswith("SLSA_")]
        assert slsa == ["SLSA_BUILD_LEVEL_UNEVALUATED"]


def test_a_rewritten_image_names_what_its_source_had() -> None:
    rewritten = Signer(P256, VERIFIER).statement(replace(MIRRORING, source_digest=UPSTREAM), MOMENT)
    assert rewritten["subject"][0]["digest"] == {"sha256": DIGEST.hex}
    assert rewritten["predicate"]["imagemirror_source"]["digest"] == {"sha256": UPSTREAM.hex}


def test_a_sha512_digest_is_named_by_its_algorithm() -> None:
    digest = Digest.of(b"image", "sha512")
    statement = Signer(P256, VERIFIER).statement(replace(MIRRORING, digest=digest), MOMENT)
    assert statement["subject"][0]["digest"] == {"sha512": digest.hex}


@KEYS
def test_the_bundle_is_a_dsse_envelope_that_its_key_verifies(key: SigningKey) -> None:
    bundle = signed(key)
    assert bundle["mediaType"] == BUNDLE_TYPE == "application/vnd.dev.sigstore.bundle.v0.3+json"
    envelope = bundle["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(base64.b64decode(envelope["payload"])) == Signer(key, VERIFIER).statement(MIRRORING, MOMENT)
    verify_envelope(key, envelope)
    with pytest.raises(InvalidSignature):
        verify_envelope(key, {**envelope, "payload": base64.b64encode(b"{}").decode()})


@KEYS
def test_the_hint_is_the_hash_of_the_public_key_as_cosign_writes_it(key: SigningKey) -> None:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hint = signed(key)["verificationMaterial"]["publicKey"]["hint"]
    assert base64.b64decode(hint) == hashlib.sha256(der).digest()


@KEYS
def test_a_signer_recognizes_its_own_statement(key: SigningKey) -> None:
    signer = Signer(key, VERIFIER)
    statement = signer.statement(MIRRORING, MOMENT)
    assert signer.own_statement(signer.sign(statement)) == statement


@KEYS
@pytest.mark.parametrize("other", [generate_private_key(SECP256R1()), Ed25519PrivateKey.generate()])
def test_the_statement_of_another_key_is_not_its_own(key: SigningKey, other: SigningKey) -> None:
    assert Signer(key, VERIFIER).own_statement(json.dumps(signed(other)).encode()) is None


def without(bundle: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in bundle.items() if key != name}


def forged(bundle: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], **fields}}


SIGNED = signed()
NOT_OWN: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("no JSON", b"\xff\xfe"),
    ("a list", b"[]"),
    ("a part of one", json.dumps(SIGNED).encode()[:-20]),
    ("no envelope", json.dumps(without(SIGNED, "dsseEnvelope")).encode()),
    ("no signature", json.dumps(forged(SIGNED, signatures=[])).encode()),
    ("no base64", json.dumps(forged(SIGNED, signatures=[{"sig": "%"}])).encode()),
    ("another payload", json.dumps(forged(SIGNED, payload=base64.b64encode(b'{"a":1}').decode())).encode()),
    ("another type", json.dumps(forged(SIGNED, payloadType="text/plain")).encode()),
]


@pytest.mark.parametrize("bundle", [bundle for _, bundle in NOT_OWN], ids=[name for name, _ in NOT_OWN])
def test_anything_else_is_not_its_own_statement(bundle: bytes) -> None:
    assert Signer(P256, VERIFIER).own_statement(bundle) is None


def test_two_statements_that_differ_in_their_time_say_the_same() -> None:
    signer = Signer(P256, VERIFIER)
    statement = signer.statement(MIRRORING, MOMENT)
    assert says_the_same(statement, signer.statement(MIRRORING, "2027-01-01T00:00:00Z"))
    assert not says_the_same(statement, signer.statement(replace(MIRRORING, source="quay.io/redis:7"), MOMENT))
    assert not says_the_same(statement, signer.statement(replace(MIRRORING, verdict=VERDICT), MOMENT))
    assert not says_the_same(statement, Signer(P256, "urn:corp:other").statement(MIRRORING, MOMENT))
    assert not says_the_same(statement, {**statement, "predicate": "PASSED"})


def test_the_manifest_is_as_cosign_3_writes_it() -> None:
    bundle = json.dumps(SIGNED).encode()
    body = bundle_manifest(bundle, Descriptor(OCI_INDEX, DIGEST, 1234), MOMENT)
    parsed = parse_manifest(body, OCI_MANIFEST, what="the manifest")
    assert isinstance(parsed, Manifest)
    assert parsed.artifact_type == BUNDLE_TYPE
    assert parsed.subject == Descriptor(OCI_INDEX, DIGEST, 1234)
    assert parsed.config == Descriptor("application/vnd.oci.empty.v1+json", Digest.of(b"{}"), 2)
    assert parsed.layers == (Descriptor(BUNDLE_TYPE, Digest.of(bundle), len(bundle)),)
    listed = described(ManifestContent(Descriptor(OCI_MANIFEST, Digest.of(body), len(body)), body, parsed))
    assert listed.annotations == {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": SUMMARY_TYPE,
        "org.opencontainers.image.created": MOMENT,
    }
    assert may_be_summary(listed)
    assert is_bundle(listed)


@pytest.mark.parametrize(
    ("artifact_type", "predicate", "bundle"),
    [
        (BUNDLE_TYPE, "https://sigstore.dev/cosign/sign/v1", True),
        (BUNDLE_TYPE, "", True),
        ("application/vnd.dev.sigstore.bundle+json;version=0.3", SUMMARY_TYPE, True),
        ("application/vnd.cncf.notary.signature", SUMMARY_TYPE, False),
        ("", SUMMARY_TYPE, False),
    ],
)
def test_other_referrers_are_no_summaries(artifact_type: str, predicate: str, bundle: bool) -> None:
    annotations = {"dev.sigstore.bundle.predicateType": predicate}
    referrer = Referrer(Descriptor(OCI_MANIFEST, DIGEST, 1234), artifact_type, annotations)
    assert not may_be_summary(referrer)
    assert is_bundle(referrer) is bundle


def test_a_signer_does_not_show_its_key() -> None:
    signer = Signer(P256, VERIFIER)
    assert str(P256.private_numbers().private_value) not in f"{signer!r} {vars(signer)!r}"
