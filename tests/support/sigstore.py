"""A private instance of Sigstore in memory: an authority, a certificate log and a signature log. It signs bundles.

It issues certificates as Fulcio does and log entries as Rekor 1 does, so that Sigstore's own verifier accepts them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mirror.oci.digest import Digest

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
COSIGN_SIGN: Final = "https://sigstore.dev/cosign/sign/v1"
SIGNED_AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDENTITY: Final = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1"
ISSUER: Final = "https://token.actions.githubusercontent.com"
_SCT_LIST: Final = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_FULCIO: Final = "1.3.6.1.4.1.57264.1"
_ORIGIN: Final = "log.test"


def statement(subject: Digest, predicate_type: str = COSIGN_SIGN, /, **more: Any) -> bytes:
    """Return an in-toto statement about *subject*, as cosign 3 writes it."""
    document = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {subject.algorithm: subject.hex}}],
        "predicateType": predicate_type,
        "predicate": {},
    }
    return json.dumps(document | more).encode()


def pae(payload: bytes, payload_type: str = "application/vnd.in-toto+json") -> bytes:
    """Return what a DSSE envelope signs."""
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def envelope(payload: bytes, *signatures: bytes, payload_type: str = "application/vnd.in-toto+json") -> dict[str, Any]:
    return {
        "payload": b64(payload),
        "payloadType": payload_type,
        "signatures": [{"sig": b64(one)} for one in signatures],
    }


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        decipher_only=False,
        **dict.fromkeys(others, False),
    )


def _sha256_ecdsa(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Sigstore:
    """The instance. Its authority's certificate is valid from *start* to *end*."""

    start: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    end: datetime = datetime(2035, 1, 1, tzinfo=UTC)
    authority: ec.EllipticCurvePrivateKey = field(default_factory=_new_key, repr=False)
    certificate_log: ec.EllipticCurvePrivateKey = field(default_factory=_new_key, repr=False)
    signature_log: ec.EllipticCurvePrivateKey = field(default_factory=_new_key, repr=False)
    root: x509.Certificate = field(init=False, repr=False)

    def __post_init__(self) -> None:
        public, name = self.authority.public_key(), _name("sigstore.test")
        builder = x509.CertificateBuilder(name, name, public, 1, self.start, self.end)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        object.__setattr__(self, "root", builder.sign(self.authority, hashes.SHA256()))

    def trusted_root(self, *, end: datetime | None = None) -> bytes:
        """Return the file. The authority is trusted until *end*."""
        start = self.start.isoformat()
        authority = {
            "subject": {"organization": "test", "commonName": "sigstore.test"},
            "uri": "https://fulcio.test",
            "certChain": {"certificates": [{"rawBytes": b64(self.root.public_bytes(Encoding.DER))}]},
            "validFor": {"start": start} | ({"end": end.isoformat()} if end else {}),
        }
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log(self.signature_log, start)],
            "certificateAuthorities": [authority],
            "ctlogs": [_log(self.certificate_log, start)],
            "timestampAuthorities": [],
        }
        return json.dumps(document).encode()

    def sign(
        self, payload: bytes, *, identity: str = IDENTITY, issuer: str = ISSUER, at: datetime = SIGNED_AT
    ) -> dict[str, Any]:
        """Return a bundle with a DSSE envelope around *payload*."""
        key = _new_key()
        certificate = self.certificate(key.public_key(), identity, issuer, at)
        signature = _sha256_ecdsa(key, pae(payload))
        signed = envelope(payload, signature)
        hashed = {"algorithm": "sha256", "value": hashlib.sha256(json.dumps(signed).encode()).hexdigest()}
        spec = {
            "envelopeHash": hashed,
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": b64(signature), "verifier": b64(certificate.public_bytes(Encoding.PEM))}],
        }
        return self._bundle(certificate, "dsse", spec, at) | {"dsseEnvelope": signed}

    def sign_content(self, content: bytes, *, at: datetime = SIGNED_AT) -> dict[str, Any]:
        """Return a bundle with a signature of *content* itself."""
        key = _new_key()
        certificate = self.certificate(key.public_key(), IDENTITY, ISSUER, at)
        signature = _sha256_ecdsa(key, content)
        digest = hashlib.sha256(content)
        spec = {
            "data": {"hash": {"algorithm": "sha256", "value": digest.hexdigest()}},
            "signature": {
                "content": b64(signature),
                "publicKey": {"content": b64(certificate.public_bytes(Encoding.PEM))},
            },
        }
        message = {
            "messageDigest": {"algorithm": "SHA2_256", "digest": b64(digest.digest())},
            "signature": b64(signature),
        }
        return self._bundle(certificate, "hashedrekord", spec, at) | {"messageSignature": message}

    def certificate(
        self, public: ec.EllipticCurvePublicKey, identity: str, issuer: str, at: datetime
    ) -> x509.Certificate:
        """Issue a certificate for ten minutes, with the proof that the certificate log has it."""
        name = x509.RFC822Name(identity) if "@" in identity and "/" not in identity else None
        builder = (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), public, 2, at, at + timedelta(minutes=10))
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), critical=False
            )
            .add_extension(
                x509.SubjectAlternativeName([name or x509.UniformResourceIdentifier(identity)]), critical=True
            )
            .add_extension(_unknown(f"{_FULCIO}.1", issuer.encode()), critical=False)
            .add_extension(_unknown(f"{_FULCIO}.8", _der(0x0C, issuer.encode())), critical=False)
        )
        draft = builder.add_extension(_unknown(_SCT_LIST.dotted_string, b"\x04\x00"), critical=False)
        logged = draft.sign(self.authority, hashes.SHA256()).tbs_precertificate_bytes
        return builder.add_extension(
            _unknown(_SCT_LIST.dotted_string, self._timestamp_list(logged, at)), critical=False
        ).sign(self.authority, hashes.SHA256())

    def _timestamp_list(self, logged: bytes, at: datetime) -> bytes:
        """Return the signed certificate timestamp for a precertificate, as its extension has it (RFC 6962, 3.2)."""
        when = struct.pack("!Q", int(at.timestamp() * 1000))
        issuer = hashlib.sha256(spki(self.authority)).digest()
        entry = b"\x00\x01" + issuer + struct.pack("!I", len(logged))[1:] + logged
        signature = _sha256_ecdsa(self.certificate_log, b"\x00\x00" + when + entry + b"\x00\x00")
        log = hashlib.sha256(spki(self.certificate_log)).digest()
        one = b"\x00" + log + when + b"\x00\x00" + b"\x04\x03" + struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(one) + 2, len(one)) + one
        return _der(0x04, listed)

    def _bundle(
        self, certificate: x509.Certificate, kind: str, spec: Mapping[str, Any], at: datetime
    ) -> dict[str, Any]:
        """Return a bundle without its content. The log has one entry."""
        body = json.dumps({"apiVersion": "0.0.1", "kind": kind, "spec": spec}, separators=(",", ":")).encode()
        log = hashlib.sha256(spki(self.signature_log)).digest()
        promise = {
            "body": b64(body),
            "integratedTime": int(at.timestamp()),
            "logID": log.hex(),
            "logIndex": 0,
        }
        root_hash = hashlib.sha256(b"\x00" + body).digest()
        note = f"{_ORIGIN}\n1\n{b64(root_hash)}\n"
        note_signature = log[:4] + _sha256_ecdsa(self.signature_log, note.encode())
        promised = _sha256_ecdsa(self.signature_log, json.dumps(promise, separators=(",", ":")).encode())
        entry = {
            "logIndex": "0",
            "logId": {"keyId": b64(log)},
            "kindVersion": {"kind": kind, "version": "0.0.1"},
            "integratedTime": str(promise["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": b64(promised)},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root_hash),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 {_ORIGIN} {b64(note_signature)}\n"},
            },
            "canonicalizedBody": b64(body),
        }
        raw = b64(certificate.public_bytes(Encoding.DER))
        return {
            "mediaType": BUNDLE,
            "verificationMaterial": {"certificate": {"rawBytes": raw}, "tlogEntries": [entry]},
        }


def _der(tag: int, value: bytes) -> bytes:
    length = bytes([len(value)]) if len(value) < 128 else bytes([0x81, len(value)])
    return bytes([tag]) + length + value


def _unknown(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def _log(key: ec.EllipticCurvePrivateKey, start: str) -> dict[str, Any]:
    public = {"rawBytes": b64(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": {"start": start}}
    return {
        "baseUrl": "https://log.test",
        "hashAlgorithm": "SHA2_256",
        "publicKey": public,
        "logId": {"keyId": b64(hashlib.sha256(spki(key)).digest())},
    }
