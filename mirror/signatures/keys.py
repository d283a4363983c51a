"""Public keys in PEM: which of them may sign, and whether one of them has signed some bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from mirror.oci.digest import Digest

_Key = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
_PEM: Final = re.compile(r"-----BEGIN (?P<label>[A-Z0-9 ]{1,40})-----[A-Za-z0-9+/=\s]*-----END (?P=label)-----")
_LABEL: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_SMALLEST_RSA: Final = 2048
_LARGEST_RSA: Final = 8192
"""Bits. The time of a check grows with the square of the size."""
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"sha256": hashes.SHA256(), "sha512": hashes.SHA512()}
_SUPPORTED: Final = "Keys are ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key. Its ``id`` is ``sha256:`` and the hash of its DER, as ``openssl pkey -pubin -outform DER`` has it.

    ``pem`` is its one canonical text.
    """

    pem: str
    id: str
    _key: _Key = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one public key in PEM. Raises ValueError, whose message never repeats the text."""
        found = _PEM.fullmatch(text.strip())
        label = found["label"] if found else "".join(_LABEL.findall(text)[:1])
        if "PRIVATE" in label or "PRIVATE KEY" in text:
            raise ValueError("It is a private key. Send the public key, and replace this one, because it was sent")
        if "CERTIFICATE" in label:
            raise ValueError("It is a certificate. Send its public key, or use 'identity' and 'issuer'")
        if found is None or label not in ("PUBLIC KEY", "RSA PUBLIC KEY"):
            raise ValueError("It is not one public key in PEM, which begins with '-----BEGIN PUBLIC KEY-----'")
        return cls._of(found[0])

    @classmethod
    def _of(cls, pem: str) -> Self:
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(f"It is damaged, or of an unknown type. {_SUPPORTED}") from None
        if not isinstance(key, _Key) or not _is_supported(key):
            raise ValueError(f"Its type or its size is not supported. {_SUPPORTED}")
        canonical = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(canonical, f"sha256:{hashlib.sha256(der).hexdigest()}", key)

    @property
    def is_ed25519(self) -> bool:
        return isinstance(self._key, ed25519.Ed25519PublicKey)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether *signature* is one of *message* by this key.

        SHA-256 is used with every key but Ed25519. Some signers use SHA-384 with P-384. Ed25519 is pure: cosign's
        Ed25519ph cannot be checked with the library.
        """
        key = self._key
        if isinstance(key, ed25519.Ed25519PublicKey):
            return _accepts(lambda: key.verify(signature, message))
        algorithms: tuple[hashes.HashAlgorithm, ...] = (hashes.SHA256(),)
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1":
            algorithms = (hashes.SHA256(), hashes.SHA384())
        return any(self._verifies(signature, message, algorithm) for algorithm in algorithms)

    def has_signed_digest(self, digest: Digest, signature: bytes) -> bool:
        """Return whether *signature* is one of the content with this digest. Ed25519 would need the content itself."""
        prehashed = utils.Prehashed(_HASHES[digest.algorithm])
        return self._verifies(signature, bytes.fromhex(digest.hex), prehashed)

    def _verifies(self, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm | utils.Prehashed) -> bool:
        key = self._key
        if isinstance(key, ec.EllipticCurvePublicKey):
            return _accepts(lambda: key.verify(signature, data, ec.ECDSA(algorithm)))
        if isinstance(key, rsa.RSAPublicKey):
            return _accepts(lambda: key.verify(signature, data, padding.PKCS1v15(), algorithm))
        return False


def _is_supported(key: _Key) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in ("secp256r1", "secp384r1")
    return not isinstance(key, rsa.RSAPublicKey) or _SMALLEST_RSA <= key.key_size <= _LARGEST_RSA


def _accepts(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except InvalidSignature:
        return False
    return True


public_key: Final = lru_cache(maxsize=256)(PublicKey.parse)
"""Parse a key once. A policy is used for thousands of images. A text with a private key is never kept."""
