"""The mirror's own statement about an image that it mirrored: a verification summary, signed with its key. Pure.

It says that the mirror has read and verified the bytes of the image, and where they came from. With a signature policy
it also says that a signature was accepted. It claims no level of SLSA, because the mirror knows nothing of the build.

- The statement is in-toto's, the predicate is SLSA's (slsa.dev/spec/v1.2/verification_summary).
- The signature is a DSSE envelope in a Sigstore bundle, which names the key by its hash, as cosign does.
- The bundle is the only layer of a manifest whose subject is the image (sigstore/cosign, specs/BUNDLE_SPEC.md).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.referrer import EMPTY_TYPE, Referrer
from mirror.signatures.documents import Envelope, Refused, read_bundle, read_object
from mirror.signatures.keys import public_key
from mirror.signatures.policy import SignatureVerdict

BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
SUMMARY_TYPE: Final = "https://slsa.dev/verification_summary/v1"
SigningKey = EllipticCurvePrivateKey | Ed25519PrivateKey
"""A private key on the curve P-256, or of Ed25519."""
EMPTY_CONFIG: Final = b"{}"
_STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_PREDICATE_ANNOTATION: Final = "dev.sigstore.bundle.predicateType"


def signing_key(text: str) -> SigningKey:
    """Parse a private key in PEM. It is not encrypted, because there is no setting for its password."""
    if "ENCRYPTED" in text:
        raise ValueError(
            "is encrypted; `openssl pkey -in KEY -out PLAIN` decrypts it, but not a key that cosign made: "
            "make another one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
        )
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("must be a private key in PEM; MIRROR_ATTESTATION_KEY_FILE names a file with one") from None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    raise ValueError("must be a key on the curve P-256, or of Ed25519")


@dataclass(frozen=True, slots=True)
class Mirroring:
    """What a statement tells of one image.

    *name* is the repository as clients write it, with the host of the mirror. *source* is the reference that was
    mirrored, and *source_digest* what it had. That differs from *digest* after a rewrite. *verdict* is the signature
    that was accepted, None without a policy.
    """

    name: str
    digest: Digest
    source: str
    source_digest: Digest
    verdict: SignatureVerdict | None = None


class Signer:
    """Makes statements in the name of *verifier*, a URI, and signs them with *key*. Safe to share between threads."""

    def __init__(self, key: SigningKey, verifier: str) -> None:
        self._key = key
        self._verifier = verifier
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._public_key = public_key(pem.decode())

    def statement(self, mirroring: Mirroring, moment: str) -> dict[str, Any]:
        """Return the statement about an image that was verified at *moment* (RFC 3339)."""
        digest, source_digest = mirroring.digest, mirroring.source_digest
        source = {"uri": f"oci://{mirroring.source}", "digest": {source_digest.algorithm: source_digest.hex}}
        predicate: dict[str, Any] = {
            "verifier": {"id": self._verifier},
            "timeVerified": moment,
            "resourceUri": f"oci://{mirroring.name}",
            "policy": {"uri": f"{self._verifier}#content"},
            "verificationResult": "PASSED",
            "verifiedLevels": ["SLSA_BUILD_LEVEL_UNEVALUATED", "IMAGE_MIRROR_CONTENT_VERIFIED"],
            "imagemirror_source": source,
        }
        if verdict := mirroring.verdict:
            signature = Digest.parse(verdict.signature)
            predicate["policy"] = {"uri": f"{self._verifier}#signature-{verdict.policy}"}
            predicate["inputAttestations"] = [{"digest": {signature.algorithm: signature.hex}}]
            predicate["verifiedLevels"].append("IMAGE_MIRROR_SIGNATURE_VERIFIED")
            predicate["imagemirror_signer"] = verdict.signer
        return {
            "_type": _STATEMENT_TYPE,
            "subject": [{"name": mirroring.name, "digest": {digest.algorithm: digest.hex}}],
            "predicateType": SUMMARY_TYPE,
            "predicate": predicate,
        }

    def sign(self, statement: Mapping[str, Any]) -> bytes:
        """Return the bundle of a statement."""
        payload = json.dumps(statement, separators=(",", ":")).encode()
        signature = self._signature(Envelope(_PAYLOAD_TYPE, payload, ()).signed_bytes)
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        }
        hint = base64.b64encode(bytes.fromhex(Digest.parse(self._public_key.id).hex)).decode()
        material = {"publicKey": {"hint": hint}}
        bundle = {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
        return json.dumps(bundle, separators=(",", ":")).encode()

    def own_statement(self, bundle: bytes) -> dict[str, Any] | None:
        """Return the statement in a bundle that this signer has signed. None for any other content."""
        try:
            envelope = read_bundle(bundle).content
            if isinstance(envelope, Envelope) and self._has_signed(envelope):
                return read_object(envelope.payload, "its statement")
        except Refused:
            pass
        return None

    def _signature(self, message: bytes) -> bytes:
        if isinstance(self._key, EllipticCurvePrivateKey):
            return self._key.sign(message, ECDSA(SHA256()))
        return self._key.sign(message)

    def _has_signed(self, envelope: Envelope) -> bool:
        return any(self._public_key.has_signed(envelope.signed_bytes, one) for one in envelope.signatures)


def says_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two statements differ in their time only."""
    return _without_time(one) == _without_time(other)


def _without_time(statement: Mapping[str, Any]) -> dict[str, Any]:
    predicate = statement.get("predicate")
    timeless = {**predicate, "timeVerified": None} if isinstance(predicate, Mapping) else predicate
    return {**statement, "predicate": timeless}


def bundle_manifest(bundle: bytes, subject: Descriptor, moment: str) -> bytes:
    """Return the manifest that attaches the bundle of a statement to *subject*. *moment* is RFC 3339."""
    config = {"mediaType": EMPTY_TYPE, "digest": str(Digest.of(EMPTY_CONFIG)), "size": len(EMPTY_CONFIG)}
    layer = {"mediaType": BUNDLE_TYPE, "digest": str(Digest.of(bundle)), "size": len(bundle)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": BUNDLE_TYPE,
        "config": config,
        "layers": [layer],
        "subject": {"mediaType": subject.media_type, "digest": str(subject.digest), "size": subject.size},
        "annotations": {
            "dev.sigstore.bundle.content": "dsse-envelope",
            _PREDICATE_ANNOTATION: SUMMARY_TYPE,
            "org.opencontainers.image.created": moment,
        },
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


def may_be_summary(referrer: Referrer) -> bool:
    """Return whether a list shows a referrer as the bundle of a verification summary. Anyone may have signed it."""
    return referrer.artifact_type == BUNDLE_TYPE and referrer.annotations.get(_PREDICATE_ANNOTATION) == SUMMARY_TYPE


def is_bundle(referrer: Referrer) -> bool:
    """Return whether cosign sees a Sigstore bundle in a referrer."""
    return referrer.artifact_type.startswith("application/vnd.dev.sigstore.bundle")
