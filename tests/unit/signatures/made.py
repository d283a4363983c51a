"""Signatures made on the spot, as cosign 2 and cosign 3 store them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mirror.errors import SignatureRequired
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.manifest import parse_manifest
from mirror.signatures.documents import SIMPLE_SIGNING_TYPE
from mirror.signatures.policy import SignaturePolicy, SignatureVerdict
from mirror.signatures.roots import TrustedRoots
from mirror.signatures.verify import SignatureCandidate, check
from tests.support.sigstore import BUNDLE, b64, envelope, pae, statement

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
SUBJECT: Final = Digest.of(b"an image")
OTHER: Final = Digest.of(b"another image")
NOW: Final = datetime(2026, 11, 29, 12, tzinfo=UTC)
KEY: Final = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY: Final = ec.generate_private_key(ec.SECP256R1())
SIGNATURE: Final = "dev.cosignproject.cosign/signature"


def pem(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


POLICY: Final = SignaturePolicy.parse(keys=[pem(KEY)])


def signed(content: bytes, key: PrivateKey = KEY, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    """Sign as cosign does with such a key."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(content)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), algorithm or hashes.SHA256())
    return key.sign(content, ec.ECDSA(algorithm or hashes.SHA256()))


def payload(subject: Digest = SUBJECT, kind: str = "cosign container image signature", **critical: Any) -> bytes:
    """Return cosign 2's payload for *subject*."""
    fields = {
        "identity": {"docker-reference": "registry.test/team/app"},
        "image": {"docker-manifest-digest": str(subject)},
        "type": kind,
    }
    return json.dumps({"critical": fields | critical, "optional": None}).encode()


def layer(content: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    found = {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}
    return found | ({"annotations": dict(annotations)} if annotations else {})


def simple(content: bytes, signature: bytes) -> dict[str, Any]:
    """Return the layer of a signature of cosign 2."""
    return layer(content, SIMPLE_SIGNING_TYPE, {SIGNATURE: b64(signature)})


def manifest(*layers: Mapping[str, Any]) -> ManifestContent:
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": config, "layers": list(layers)}
    body = json.dumps(document).encode()
    return ManifestContent(
        Descriptor(media_types.OCI_MANIFEST, Digest.of(body), len(body)), body, parse_manifest(body, None, what="it")
    )


def candidate(
    layers: Mapping[str, Any] | list[dict[str, Any]], *contents: bytes, is_tagged: bool = False
) -> SignatureCandidate:
    """Return a manifest with these layers. Its source holds *contents*."""
    held = {Digest.of(content): content for content in contents}
    listed = layers if isinstance(layers, list) else [dict(layers)]
    return of(manifest(*listed), lambda descriptor: held[descriptor.digest], is_tagged=is_tagged)


def of(content: ManifestContent, read: Callable[[Descriptor], bytes], *, is_tagged: bool = False) -> SignatureCandidate:
    return SignatureCandidate(str(content.descriptor.digest), lambda: content, read, is_tagged)


def cosign_2(content: bytes | None = None, key: PrivateKey = KEY, *, is_tagged: bool = True) -> SignatureCandidate:
    content = payload() if content is None else content
    return candidate(simple(content, signed(content, key)), content, is_tagged=is_tagged)


def key_bundle(content: bytes, key: PrivateKey = KEY, **more: Any) -> dict[str, Any]:
    """Return a bundle with a DSSE envelope that *key* has signed, as ``cosign sign --key`` writes it."""
    material = {"publicKey": {"hint": "aGludA=="}}
    made = {"mediaType": BUNDLE, "verificationMaterial": material}
    return made | {"dsseEnvelope": envelope(content, signed(pae(content), key))} | more


def bundled(document: Mapping[str, Any] | bytes) -> SignatureCandidate:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return candidate(layer(raw, BUNDLE), raw)


def cosign_3(subject: Digest = SUBJECT, key: PrivateKey = KEY) -> SignatureCandidate:
    return bundled(key_bundle(statement(subject), key))


def checked(
    *candidates: SignatureCandidate,
    policy: SignaturePolicy = POLICY,
    subject: Digest = SUBJECT,
    roots: Path | None = None,
) -> SignatureVerdict:
    return check(policy, subject, candidates, roots=TrustedRoots(roots), now=NOW)


def refusal(*candidates: SignatureCandidate, policy: SignaturePolicy = POLICY, roots: Path | None = None) -> str:
    """Return why no signature is accepted."""
    with pytest.raises(SignatureRequired) as refused:
        checked(*candidates, policy=policy, roots=roots)
    assert refused.value.code == "SIGNATURE_REQUIRED"
    assert not refused.value.retryable
    assert str(SUBJECT) in refused.value.message
    return refused.value.reason
