"""Signatures without a key: a certificate says who has signed, and a log or a timestamp says when.

This is the only module that imports `sigstore`, which takes 55 MiB and a second. Import it when a signature is checked.
Sigstore's client for the log is constructed, but never used: everything is in the bundle and in the trusted root.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from sigstore.errors import CertValidationError, Error, VerificationError
from sigstore.hashes import Hashed
from sigstore.models import Bundle as SigstoreBundle
from sigstore.models import TrustedRoot
from sigstore.verify import Verifier
from sigstore_models.common.v1 import HashAlgorithm
from sigstore_models.trustroot.v1 import TrustedRoot as TrustedRootFields

from mirror.errors import TrustedRootUnavailable, quoted
from mirror.signatures.documents import Bundle, MessageSignature, Refused, decode
from mirror.signatures.policy import SignaturePolicy

_OTHER_NAME: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")
_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_OLD_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""Names and extensions of a certificate (sigstore/fulcio, docs/oid-info.md). The old issuer is not in DER."""
_UTF8_STRING: Final = 0x0C
_BROKEN: Final = (
    *(Error, ValueError, TypeError, KeyError, OverflowError, OSError),
    *(InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension),
    *(x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)
"""What Sigstore's and cryptography's parsers raise for damaged input. All of it refuses the signature."""


class IdentityCheck:
    """Checks bundles against the identity of a policy and a trusted root."""

    def __init__(self, policy: SignaturePolicy, root: bytes) -> None:
        """Load the trusted root. Raises TrustedRootUnavailable."""
        self._policy = policy
        try:
            fields = TrustedRootFields.from_json(root)
            self._authorities = list(_authorities(json.loads(root)))
            self._verifier = Verifier(trusted_root=TrustedRoot(fields))
        except _BROKEN:
            raise TrustedRootUnavailable(policy.trusted_root, "its file is not a trusted root of Sigstore") from None

    def signer_of(self, bundle: Bundle) -> str:
        """Return who has signed. Raises Refused."""
        try:
            parsed = SigstoreBundle.from_json(bundle.raw)
            certificate = parsed.signing_certificate
            signer = self._require_identity(certificate)
        except _BROKEN:
            raise Refused(
                "its bundle is damaged, or it lacks its certificate, its log entry, or the proof that the log has it"
            ) from None
        try:
            self._verify(bundle, parsed)
        except CertValidationError:
            raise Refused(self._chain_problem(bundle, parsed)) from None
        except _BROKEN:
            raise Refused("its signature, its log entry or its timestamp is not valid") from None
        self._require_current_authority(certificate)
        return signer

    def _verify(self, bundle: Bundle, parsed: SigstoreBundle) -> None:
        if isinstance(bundle.content, MessageSignature):
            signed = bundle.content.signed
            if signed.algorithm != "sha256":
                raise Refused("it signs a SHA-512, which is not supported without a key")
            hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=bytes.fromhex(signed.hex))
            self._verifier.verify_artifact(hashed, parsed, self)
            return
        if self._verifier.verify_dsse(parsed, self) != (bundle.content.payload_type, bundle.content.payload):
            raise Refused("its payload can be read in two ways")

    def verify(self, cert: x509.Certificate) -> None:
        """Raise VerificationError for another identity. This makes it a policy of Sigstore's verifier."""
        try:
            self._require_identity(cert)
        except Refused as refused:
            raise VerificationError(refused.reason) from None

    def _require_identity(self, certificate: x509.Certificate) -> str:
        """Return the identity and the issuer of a certificate. Raises Refused if the policy asks for another."""
        if not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
            raise Refused("its certificate is not for an ECDSA key, and no other is supported without a key")
        identities, issuer = _identities(certificate), _issuer(certificate)
        for identity in identities:
            if issuer == self._policy.issuer and self._policy.allows_identity(identity):
                return f"{identity} ({issuer})"
        shown = ", ".join(quoted(identity, 200) for identity in identities[:3]) or "nobody"
        raise Refused(f"another identity has signed it: {shown}, confirmed by {quoted(issuer, 200)}")

    def _chain_problem(self, bundle: Bundle, parsed: SigstoreBundle) -> str:
        """Say why a certificate leads to no authority. The times are not proved, so they only choose the sentence."""
        signed_at = _claimed_time(bundle, parsed)
        certificate = parsed.signing_certificate
        if signed_at and not certificate.not_valid_before_utc <= signed_at <= certificate.not_valid_after_utc:
            return "its certificate was not valid when it signed"
        issuers = [chain for chain, _, _ in self._authorities if _has_issued(chain, certificate)]
        if issuers and signed_at:
            return "the trusted root had expired when it signed"
        return "its certificate does not lead to the trusted root"

    def _require_current_authority(self, certificate: x509.Certificate) -> None:
        """Refuse a certificate of an authority that the trusted root trusts for another time.

        Sigstore's verifier checks the times in certificates only. The signature was made in the certificate's time.
        """
        for chain, start, end in self._authorities:
            is_current = start <= certificate.not_valid_before_utc and (
                end is None or certificate.not_valid_after_utc <= end
            )
            if is_current and _has_issued(chain, certificate):
                return
        raise Refused("the trusted root had expired when it signed")


def _authorities(root: dict[str, Any]) -> Iterator[tuple[list[x509.Certificate], datetime, datetime | None]]:
    """Yield the certificates of each authority, and the time in which it is trusted."""
    for authority in root["certificateAuthorities"]:
        certificates = [decode(one["rawBytes"], "a certificate") for one in authority["certChain"]["certificates"]]
        valid_for = authority["validFor"]
        end = valid_for.get("end")
        yield (
            [x509.load_der_x509_certificate(der) for der in certificates],
            datetime.fromisoformat(valid_for["start"]),
            datetime.fromisoformat(end) if end else None,
        )


def _has_issued(chain: list[x509.Certificate], certificate: x509.Certificate) -> bool:
    for authority in chain:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return True
    return False


def _claimed_time(bundle: Bundle, parsed: SigstoreBundle) -> datetime | None:
    """Return when the log or a timestamp says that the signature was made."""
    timestamps = parsed.verification_material.timestamp_verification_data
    if timestamps and timestamps.rfc3161_timestamps:
        return timestamps.rfc3161_timestamps[0].tst_info.gen_time
    [entry] = bundle.material["tlogEntries"]
    return datetime.fromtimestamp(int(entry["integratedTime"]), tz=UTC) if "integratedTime" in entry else None


def _identities(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [*names.get_values_for_type(x509.RFC822Name), *names.get_values_for_type(x509.UniformResourceIdentifier)]
    others = names.get_values_for_type(x509.OtherName)
    return found + [_utf8(other.value) for other in others if other.type_id == _OTHER_NAME]


def _issuer(certificate: x509.Certificate) -> str:
    extensions = {extension.oid: extension.value for extension in certificate.extensions}
    current, old = extensions.get(_ISSUER), extensions.get(_OLD_ISSUER)
    if isinstance(current, x509.UnrecognizedExtension):
        return _utf8(current.value)
    return old.value.decode() if isinstance(old, x509.UnrecognizedExtension) else ""


def _utf8(der: bytes) -> str:
    """Read a UTF8String of DER. Raises ValueError."""
    if len(der) < 2 or der[0] != _UTF8_STRING:
        raise ValueError("it is no UTF8String")
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if start + length != len(der):
        raise ValueError("it is no UTF8String")
    return der[start:].decode()
