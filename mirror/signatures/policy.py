"""Who must have signed an image, and what a check has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """Who must have signed an image: the owner of one of *keys*, or an *identity*.

    *keys* are public keys in PEM. An identity is a certificate's subject, such as an e-mail address or the URL of a
    workflow, which *issuer* has confirmed. Its certificate must lead to the trusted root of the name *trusted_root*.
    """

    keys: tuple[str, ...] = ()
    identity: str = ""
    issuer: str = ""
    trusted_root: str = ""


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """A signature that a check has accepted.

    *signer* is ``key sha256:<hex of its DER>``, or the identity and its issuer. *form* says how the signature is
    stored: ``cosign-tag``, ``cosign-referrer`` or ``bundle``. *signature* is the digest of the manifest with the
    signature. *policy* is the key of the policy that was checked. *verified_at* is RFC 3339 in UTC.
    """

    signer: str
    form: str
    signature: str
    policy: str
    verified_at: str

    def fields(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: object) -> Self | None:
        """Read what `fields` returned. None for anything else."""
        names = cls.__dataclass_fields__
        if not isinstance(fields, Mapping) or not all(isinstance(fields.get(name), str) for name in names):
            return None
        values: dict[str, Any] = {name: fields[name] for name in names}
        return cls(**values)
