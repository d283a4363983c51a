"""The documents that sign an image: cosign's payloads, Sigstore's bundles and in-toto statements. Pure.

They are read strictly. A document that two readers could understand in two ways does not count as a signature.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirror.errors import InvalidDigest, quoted
from mirror.oci.digest import Digest

SIMPLE_SIGNING_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
COSIGN_ARTIFACT_TYPE: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE_TYPES: Final = frozenset(
    {"application/vnd.dev.sigstore.bundle.v0.3+json"}
    | {f"application/vnd.dev.sigstore.bundle+json;version=0.{minor}" for minor in (1, 2, 3)}
)
SIGNATURE_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
"""The predicate of an in-toto statement with which cosign 3 signs an image."""
_SIMPLE_SIGNING_NAMES: Final = ("cosign container image signature", SIGNATURE_PREDICATE)
_STATEMENT_TYPES: Final = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_IN_TOTO: Final = "application/vnd.in-toto+json"
_MOST_SIGNATURES: Final = 10
_MOST_SUBJECTS: Final = 1_000


class Refused(Exception):
    """A signature that does not count. ``reason`` is a clause."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NoSignature(Refused):
    """Something else than a signature of an image, such as an attestation."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope: a payload, and signatures of `signed_bytes` (secure-systems-lab/dsse, protocol.md)."""

    payload_type: str
    payload: bytes
    signatures: tuple[bytes, ...]

    @property
    def signed_bytes(self) -> bytes:
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A signature of the content that has the digest *signed*."""

    signed: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class Bundle:
    """A Sigstore bundle. *raw* are its bytes, *material* tells whose signature it is and when it was made."""

    raw: bytes
    content: Envelope | MessageSignature
    material: Mapping[str, Any]


def read_object(body: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8, without duplicate fields. Raises Refused. *what* is the subject of the reason."""
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constants)
    except (ValueError, RecursionError):
        raise Refused(f"{what} is damaged: it is not JSON, or it has a field twice") from None
    if not isinstance(found, dict):
        raise Refused(f"{what} is damaged: it is not a JSON object")
    return found


def read_simple_signing(payload: bytes) -> Digest:
    """Return the digest that a payload of cosign 2 names (sigstore/cosign, specs/SIGNATURE_SPEC.md). Raises Refused."""
    what = "its payload"
    critical = _object(read_object(payload, what), "critical", what)
    kind = _text(critical, "type", what)
    if kind not in _SIMPLE_SIGNING_NAMES:
        raise NoSignature(f"it is {quoted(kind, 80)}, not a signature of an image")
    return _digest(_text(_object(critical, "image", what), "docker-manifest-digest", what), what)


def read_bundle(raw: bytes) -> Bundle:
    """Parse a Sigstore bundle (sigstore/protobuf-specs, sigstore_bundle.proto). Raises Refused."""
    what = "its bundle"
    document = read_object(raw, what)
    media_type = _text(document, "mediaType", what)
    if media_type not in BUNDLE_TYPES:
        raise Refused(f"its bundle has the type {quoted(media_type, 80)}, which is not supported")
    material = _object(document, "verificationMaterial", what)
    for name in ("dsseEnvelope", "messageSignature"):
        _refuse_other_spellings(document, name, what)
    has_envelope = document.get("dsseEnvelope") is not None
    if has_envelope == (document.get("messageSignature") is not None):
        raise Refused("its bundle is damaged: it has no signature, or two kinds of them")
    if has_envelope:
        return Bundle(raw, _envelope(_object(document, "dsseEnvelope", what)), material)
    return Bundle(raw, _message_signature(_object(document, "messageSignature", what)), material)


def read_statement(envelope: Envelope) -> tuple[Digest, ...]:
    """Return the digests that an in-toto statement signs. Raises NoSignature for an attestation, else Refused."""
    what = "its statement"
    if envelope.payload_type != _IN_TOTO:
        raise NoSignature(f"its payload is {quoted(envelope.payload_type, 80)}, not an in-toto statement")
    statement = read_object(envelope.payload, what)
    if _text(statement, "_type", what) not in _STATEMENT_TYPES:
        raise Refused("its statement is of an unknown version")
    predicate = _text(statement, "predicateType", what)
    if predicate != SIGNATURE_PREDICATE:
        raise NoSignature(f"it is an attestation, {quoted(predicate, 80)}, not a signature of the image")
    subjects = _field(statement, "subject", what)
    if not isinstance(subjects, list) or not 1 <= len(subjects) <= _MOST_SUBJECTS:
        raise Refused(f"its statement has no subject, or more than {_MOST_SUBJECTS}")
    return tuple(digest for subject in subjects for digest in _subject_digests(subject, what))


def decode(text: object, what: str) -> bytes:
    """Decode base64 strictly. Raises Refused."""
    if not isinstance(text, str):
        raise Refused(f"{what} is damaged: it has no base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{what} is damaged: its base64 cannot be decoded") from None


def _envelope(fields: Mapping[str, Any]) -> Envelope:
    what = "its envelope"
    signatures = _field(fields, "signatures", what)
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= _MOST_SIGNATURES:
        raise Refused(f"its envelope has no signature, or more than {_MOST_SIGNATURES}")
    decoded = tuple(decode(_field(_require_object(one, what), "sig", what), what) for one in signatures)
    return Envelope(_text(fields, "payloadType", what), decode(_field(fields, "payload", what), what), decoded)


def _message_signature(fields: Mapping[str, Any]) -> MessageSignature:
    what = "its bundle"
    message_digest = _object(fields, "messageDigest", what)
    algorithm = {"SHA2_256": "sha256", "SHA2_512": "sha512"}.get(_text(message_digest, "algorithm", what))
    if algorithm is None:
        raise Refused("its bundle signs a digest of another algorithm than SHA-256 and SHA-512")
    signed = _digest(f"{algorithm}:{decode(_field(message_digest, 'digest', what), what).hex()}", what)
    return MessageSignature(signed, decode(_field(fields, "signature", what), what))


def _subject_digests(subject: object, what: str) -> list[Digest]:
    """Return the digests of one subject of the algorithms that an image may have. It may name more than one."""
    digests = _object(_require_object(subject, what), "digest", what)
    return [_digest(f"{name}:{digests[name]}", what) for name in ("sha256", "sha512") if name in digests]


def _digest(text: str, what: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        raise Refused(f"{what} is damaged: it names a malformed digest") from None


def _object(fields: Mapping[str, Any], name: str, what: str) -> dict[str, Any]:
    return _require_object(_field(fields, name, what), what)


def _require_object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{what} is damaged: a part of it is not an object")
    return value


def _text(fields: Mapping[str, Any], name: str, what: str) -> str:
    value = _field(fields, name, what)
    if not isinstance(value, str):
        raise Refused(f"{what} is damaged: its '{name}' is not a text")
    return value


def _field(fields: Mapping[str, Any], name: str, what: str) -> Any:
    _refuse_other_spellings(fields, name, what)
    if name not in fields:
        raise Refused(f"{what} is damaged: it has no '{name}'")
    return fields[name]


def _refuse_other_spellings(fields: Mapping[str, Any], name: str, what: str) -> None:
    """Refuse a field that differs from *name* in case only. Go's decoder, which cosign uses, ignores the case."""
    if any(key != name and key.casefold() == name.casefold() for key in fields):
        raise Refused(f"{what} spells its field '{name}' in another way")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _no_constants(name: str) -> None:
    raise ValueError(name)
