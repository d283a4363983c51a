"""Check whether an image was signed as a policy asks, from manifests and blobs that the caller reads. No I/O.

One good signature is enough. A broken signature does not hide a good one. Whatever cannot be read or understood does
not count as a signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from mirror.errors import BlobUnknown, ContentError, MirrorError, SignatureRequired
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.manifest import Manifest
from mirror.oci.referrer import Referrer
from mirror.signatures.documents import (
    BUNDLE_TYPES,
    COSIGN_ARTIFACT_TYPE,
    SIGNATURE_PREDICATE,
    SIMPLE_SIGNING_TYPE,
    Bundle,
    Envelope,
    NoSignature,
    Refused,
    decode,
    read_bundle,
    read_simple_signing,
    read_statement,
)
from mirror.signatures.keys import public_key
from mirror.signatures.policy import SignaturePolicy, SignatureVerdict
from mirror.signatures.roots import TrustedRoots

MAX_SIGNATURE_SIZE: Final = 1024 * 1024
"""Bytes of a payload or a bundle. Those of cosign have a few thousand."""
MAX_SIGNATURES: Final = 100
"""How many signatures of an image are checked."""
_MOST_REASONS: Final = 5
_SIGNATURE_ANNOTATION: Final = "dev.cosignproject.cosign/signature"
_PREDICATE_ANNOTATION: Final = "dev.sigstore.bundle.predicateType"
_NO_KEY_HAS_SIGNED: Final = "none of the keys of the policy has signed it"


@dataclass(frozen=True, slots=True)
class SignatureCandidate:
    """A manifest that may hold signatures. ``read`` returns the content of one of its layers.

    A manifest that was found under cosign's tag is tagged. Others were listed as referrers.
    """

    manifest: ManifestContent
    read: Callable[[Descriptor], bytes] = field(repr=False, compare=False)
    is_tagged: bool = False


class _SignerCheck(Protocol):
    """Says who has signed a bundle. Raises Refused if the policy does not ask for that signer."""

    def signer_of(self, bundle: Bundle) -> str: ...


def signature_tag(subject: Digest) -> str:
    """Return the tag under which cosign 2 keeps the signatures of *subject*."""
    return f"{subject.algorithm}-{subject.hex}.sig"


def may_be_signature(referrer: Referrer) -> bool:
    """Return whether a listed referrer may be a signature. Some registries do not list the type."""
    if not referrer.is_typed:
        return True
    if referrer.artifact_type in BUNDLE_TYPES:
        return referrer.annotations.get(_PREDICATE_ANNOTATION, SIGNATURE_PREDICATE) == SIGNATURE_PREDICATE
    return referrer.artifact_type == COSIGN_ARTIFACT_TYPE


def check(
    policy: SignaturePolicy,
    subject: Digest,
    candidates: Sequence[SignatureCandidate],
    *,
    roots: TrustedRoots,
    now: datetime,
) -> SignatureVerdict:
    """Return the first good signature of *subject*. Raises SignatureRequired with all reasons if there is none.

    An error of ``read`` other than missing or wrong content is raised if no signature is good: the unread signature may
    have been it. Raises TrustedRootUnavailable if the trusted root of the policy cannot be used.
    """
    layers = [found for candidate in candidates for found in _layers(candidate)]
    if not layers:
        raise SignatureRequired(str(subject), "it has no signature")
    signers = _signer_check(policy, roots)
    reasons: list[str] = []
    unread: MirrorError | None = None
    for layer in layers[:MAX_SIGNATURES]:
        try:
            signer = layer.signer(signers, subject)
        except NoSignature:
            continue
        except Refused as refused:
            reasons.append(f"{layer.name}: {refused.reason}")
        except MirrorError as error:
            unread = unread or error
        else:
            digest = str(layer.candidate.manifest.descriptor.digest)
            verified_at = now.astimezone(UTC).isoformat(timespec="seconds")
            return SignatureVerdict(signer, layer.form, digest, policy.key, verified_at)
    if unread is not None:
        raise unread
    raise SignatureRequired(str(subject), _reason(reasons, len(layers)))


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of a candidate that may be a signature, with its annotations."""

    candidate: SignatureCandidate
    descriptor: Descriptor
    annotations: Mapping[str, Any]

    @property
    def form(self) -> str:
        if self.descriptor.media_type in BUNDLE_TYPES:
            return "bundle"
        return "cosign-tag" if self.candidate.is_tagged else "cosign-referrer"

    @property
    def name(self) -> str:
        """The beginning of the digest, which is unique enough for a person."""
        return f"{self.descriptor.digest.algorithm}:{self.descriptor.digest.hex[:12]}"

    def signer(self, signers: _SignerCheck, subject: Digest) -> str:
        """Return who has signed *subject*. Raises Refused, or what ``read`` raises."""
        content = self._content()
        if self.form == "bundle":
            bundle = read_bundle(content)
            found = bundle.content
            signed = read_statement(found) if isinstance(found, Envelope) else (found.signed,)
            return _require_both(subject, signed, lambda: signers.signer_of(bundle))
        signed = (read_simple_signing(content),)
        return _require_both(subject, signed, lambda: self._signer_of_payload(signers, content))

    def _signer_of_payload(self, signers: _SignerCheck, payload: bytes) -> str:
        if not isinstance(signers, _KeyCheck):
            raise Refused(
                "it has the form of cosign 2, which is not supported without a key, because it does not prove that the "
                "log has it"
            )
        if _SIGNATURE_ANNOTATION not in self.annotations:
            raise Refused("its manifest is damaged: the annotation with the signature is missing")
        return signers.signer_of_bytes(payload, [decode(self.annotations[_SIGNATURE_ANNOTATION], "its signature")])

    def _content(self) -> bytes:
        if self.descriptor.size > MAX_SIGNATURE_SIZE:
            raise Refused(f"it has {self.descriptor.size} bytes, more than {MAX_SIGNATURE_SIZE}")
        content = self.descriptor.inline_content()
        if content is None:
            try:
                content = self.candidate.read(self.descriptor)
            except (ContentError, BlobUnknown) as error:
                raise Refused(f"its content cannot be had: {error.reason}") from None
        if len(content) != self.descriptor.size:
            raise Refused(f"it is truncated: it has {len(content)} bytes and should have {self.descriptor.size}")
        if Digest.of(content, self.descriptor.digest.algorithm) != self.descriptor.digest:
            raise Refused("it is damaged: its bytes do not have its digest")
        return content


class _KeyCheck:
    """Checks signatures against the keys of a policy."""

    def __init__(self, pems: Sequence[str]) -> None:
        self._keys = [public_key(pem) for pem in pems]

    def signer_of(self, bundle: Bundle) -> str:
        content = bundle.content
        if isinstance(content, Envelope):
            return self.signer_of_bytes(content.signed_bytes, content.signatures)
        for key in self._keys:
            if key.has_signed_digest(content.signed, content.signature):
                return f"key {key.id}"
        raise Refused(self._none_has_signed())

    def signer_of_bytes(self, message: bytes, signatures: Sequence[bytes]) -> str:
        for key in self._keys:
            if any(key.has_signed(message, signature) for signature in signatures):
                return f"key {key.id}"
        raise Refused(self._none_has_signed())

    def _none_has_signed(self) -> str:
        if any(key.is_ed25519 for key in self._keys):
            return f"{_NO_KEY_HAS_SIGNED}, or one has with Ed25519ph, as cosign does, which is not supported"
        return _NO_KEY_HAS_SIGNED


def _signer_check(policy: SignaturePolicy, roots: TrustedRoots) -> _SignerCheck:
    if policy.keys:
        return _KeyCheck(policy.keys)
    from mirror.signatures.keyless import IdentityCheck  # noqa: PLC0415 - it takes a second and 55 MiB

    return IdentityCheck(policy, roots.read(policy.trusted_root))


def _require_both(subject: Digest, signed: Sequence[Digest], signer: Callable[[], str]) -> str:
    """Return the signer. Raises Refused if it is a wrong one, if it has not signed *subject*, or both."""
    if subject in signed:
        return signer()
    other = str(signed[0]) if signed else "none that is supported"
    try:
        who = signer()
    except Refused as refused:
        raise Refused(f"its payload names another digest, {other}, and {refused.reason}") from None
    raise Refused(f"it is a good signature of {who}, but of another digest, {other}")


def _layers(candidate: SignatureCandidate) -> Iterator[_Layer]:
    """Yield the layers whose media type is one of a signature.

    The parser of manifests has refused a field that is there twice, so the annotations belong to these descriptors.
    """
    parsed = candidate.manifest.parsed
    if not isinstance(parsed, Manifest):
        return
    entries = json.loads(candidate.manifest.body).get("layers") or []
    for descriptor, entry in zip(parsed.layers, entries, strict=True):
        if descriptor.media_type == SIMPLE_SIGNING_TYPE or descriptor.media_type in BUNDLE_TYPES:
            annotations = entry.get("annotations")
            yield _Layer(candidate, descriptor, annotations if isinstance(annotations, dict) else {})


def _reason(reasons: list[str], layers: int) -> str:
    if not reasons:
        return "it has no signature, only attestations"
    shown = "; ".join(reasons[:_MOST_REASONS])
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    unchecked = f"; only {MAX_SIGNATURES} of {layers} were checked" if layers > MAX_SIGNATURES else ""
    return f"none of its signatures is accepted: {shown}{more}{unchecked}"
