"""Check whether an image was signed as a policy asks, from manifests and blobs that the caller reads. No I/O.

One good signature is enough. A broken signature does not hide a good one. Whatever cannot be read or understood does
not count as a signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from mirror.errors import BlobUnknown, ContentError, ManifestUnknown, MirrorError, SignatureRequired
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
from mirror.signatures.policy import SignaturePolicy, SignatureVerdict, key_of
from mirror.signatures.roots import TrustedRoots

T = TypeVar("T")

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
    """A manifest that may hold signatures. It is read when it is checked, and raises what its source raises.

    *name* is for messages. *read* returns the content of one of its layers. A manifest that was found under cosign's
    tag *is_tagged*. Others were listed as referrers.
    """

    name: str
    manifest: Callable[[], ManifestContent] = field(repr=False, compare=False)
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
    candidates: Iterable[SignatureCandidate],
    *,
    roots: TrustedRoots,
    now: datetime,
) -> SignatureVerdict:
    """Return the first good signature of *subject*. Raises SignatureRequired with all reasons if there is none.

    Missing or wrong content at the source is a reason. Another error of the source is raised if no signature is good,
    because one that could not be read may be. Raises TrustedRootUnavailable if the trusted root of the policy cannot be
    used.
    """
    search = _Search(policy, subject, roots)
    for candidate in candidates:
        if found := search.find(candidate):
            signer, form, manifest = found
            return SignatureVerdict(signer, form, str(manifest), policy.key, _timestamp(now))
    raise search.error()


def check_all(
    policies: Sequence[SignaturePolicy],
    subject: Digest,
    candidates: Sequence[SignatureCandidate],
    *,
    roots: TrustedRoots,
    now: datetime,
) -> SignatureVerdict:
    """Check all of one or more policies. The verdict names all signers, and the first signature. Raises as `check`."""
    first, *others = (check(policy, subject, candidates, roots=roots, now=now) for policy in policies)
    signers = dict.fromkeys(verdict.signer for verdict in (first, *others))
    return replace(first, signer=" and ".join(signers), policy=key_of(policies))


class _Search:
    """The search for one good signature: the reasons of those that were refused, and the first error of the source."""

    def __init__(self, policy: SignaturePolicy, subject: Digest, roots: TrustedRoots) -> None:
        self._policy = policy
        self._subject = subject
        self._roots = roots
        self._signers: _SignerCheck | None = None
        self._reasons: list[str] = []
        self._unread: MirrorError | None = None
        self._checked = 0
        self._has_more = False

    def find(self, candidate: SignatureCandidate) -> tuple[str, str, Digest] | None:
        """Return signer, form and manifest of a good signature of the candidate. None if it has none."""
        if self._checked >= MAX_SIGNATURES:
            self._has_more = True
            return None
        content = self._attempt(candidate.name, candidate.manifest)
        for layer in _layers(candidate, content) if content else ():
            if self._checked >= MAX_SIGNATURES:
                self._has_more = True
                break
            self._checked += 1
            self._signers = self._signers or _signer_check(self._policy, self._roots)
            if signer := self._attempt(layer.name, partial(layer.signer, self._signers, self._subject)):
                return signer, layer.form, layer.manifest
        return None

    def error(self) -> MirrorError:
        """Return why no signature was found."""
        if self._unread is not None:
            return self._unread
        if not self._reasons:
            reason = "it has no signature, only attestations" if self._checked else "it has no signature"
            return SignatureRequired(str(self._subject), reason)
        shown = "; ".join(self._reasons[:_MOST_REASONS])
        more = f"; and {len(self._reasons) - _MOST_REASONS} more" if len(self._reasons) > _MOST_REASONS else ""
        bound = f"; only the first {MAX_SIGNATURES} were checked" if self._has_more else ""
        return SignatureRequired(str(self._subject), f"none of its signatures is accepted: {shown}{more}{bound}")

    def _attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """Return what *work* returns. If it fails, note why and return None."""
        try:
            return work()
        except NoSignature:
            pass
        except Refused as refused:
            self._reasons.append(f"{name}: {refused.reason}")
        except (ContentError, BlobUnknown, ManifestUnknown) as error:
            self._reasons.append(f"{name}: its content cannot be had: {error.reason}")
        except MirrorError as error:
            self._unread = self._unread or error
        return None


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of the manifest of a candidate. It may be a signature."""

    candidate: SignatureCandidate
    manifest: Digest
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
            content = self.candidate.read(self.descriptor)
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


def _layers(candidate: SignatureCandidate, content: ManifestContent) -> Iterator[_Layer]:
    """Yield the layers whose media type is one of a signature.

    The parser of manifests has refused a field that is there twice, so the annotations belong to these descriptors.
    """
    parsed = content.parsed
    if not isinstance(parsed, Manifest):
        return
    entries = json.loads(content.body).get("layers") or []
    for descriptor, entry in zip(parsed.layers, entries, strict=True):
        if descriptor.media_type == SIMPLE_SIGNING_TYPE or descriptor.media_type in BUNDLE_TYPES:
            annotations = entry.get("annotations")
            found = annotations if isinstance(annotations, dict) else {}
            yield _Layer(candidate, content.descriptor.digest, descriptor, found)


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
