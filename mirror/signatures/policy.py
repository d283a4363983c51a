"""Who must have signed an image, and what a check has found."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from mirror.errors import RegexUnavailable
from mirror.oci.tag_pattern import compile_regex
from mirror.signatures.keys import public_key

MOST_KEYS: Final = 10
_MOST_KEY_CHARACTERS: Final = 10_000
_MOST_CHARACTERS: Final = 1_000
_ROOT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
_TEXTS: Final = ("identity", "identity_regex", "issuer", "trusted_root")


class InvalidPolicy(ValueError):
    """A policy that asks for nothing, or for what cannot be. ``field`` is the field that is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """Who must have signed an image: the owner of one of *keys*, or an identity.

    *keys* are public keys in PEM. *identity* is the subject of a certificate, such as an e-mail address or the URL of a
    workflow, which *issuer* has confirmed. *identity_regex* is an expression (RE2) for the whole of it. The certificate
    must lead to the trusted root of the name *trusted_root*, or without a name to Sigstore's.
    """

    keys: tuple[str, ...] = ()
    identity: str = ""
    identity_regex: str = ""
    issuer: str = ""
    trusted_root: str = ""

    @classmethod
    def parse(
        cls,
        *,
        keys: Sequence[str] = (),
        identity: str = "",
        identity_regex: str = "",
        issuer: str = "",
        trusted_root: str = "",
    ) -> Self:
        """Check a policy. Raises InvalidPolicy. A message never repeats a key."""
        texts = {
            "identity": identity,
            "identity_regex": identity_regex,
            "issuer": issuer,
            "trusted_root": trusted_root,
        }
        for name, text in texts.items():
            if len(text) > _MOST_CHARACTERS or not text.isprintable():
                raise InvalidPolicy(name, f"It has more than {_MOST_CHARACTERS} characters, or unprintable ones.")
        if keys:
            if given := [name for name, text in texts.items() if text]:
                raise InvalidPolicy(given[0], "Use either 'keys', or an identity with its issuer.")
            return cls(keys=_parse_keys(keys))
        _check_identity(identity, identity_regex, issuer)
        if trusted_root and not _ROOT_NAME.fullmatch(trusted_root):
            raise InvalidPolicy(
                "trusted_root", "It is a name of lower-case letters, digits, '.', '_' and '-', without '.json'."
            )
        return cls((), identity, identity_regex, issuer, trusted_root)

    @property
    def key(self) -> str:
        """A short text that two policies share only if they ask for the same.

        An image that was accepted under a policy need not be checked again under one with the same key.
        """
        asked = [sorted(public_key(pem).id for pem in self.keys), *(getattr(self, name) for name in _TEXTS)]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]

    def allows_identity(self, identity: str) -> bool:
        """Return whether *identity* is the one that must have signed."""
        if self.identity:
            return identity == self.identity
        return bool(self.identity_regex) and compile_regex(self.identity_regex).fullmatch(identity) is not None


def key_of(policies: Sequence[SignaturePolicy]) -> str:
    """Return the key of several policies together, whatever their order. That of one is its own."""
    keys = sorted({policy.key for policy in policies})
    return keys[0] if len(keys) == 1 else hashlib.sha256(" ".join(keys).encode()).hexdigest()[:32]


def _check_identity(identity: str, identity_regex: str, issuer: str) -> None:
    if not (identity or identity_regex):
        if issuer:
            raise InvalidPolicy("identity", "An issuer needs an 'identity' or an 'identity_regex'.")
        raise InvalidPolicy("keys", "Name 'keys', of which one must have signed, or an 'identity' with its 'issuer'.")
    if identity and identity_regex:
        raise InvalidPolicy("identity_regex", "Use either 'identity' or 'identity_regex'.")
    if not issuer:
        raise InvalidPolicy("issuer", "An identity needs its issuer. Another issuer may confirm the same identity.")
    if identity_regex:
        try:
            compile_regex(identity_regex)
        except RegexUnavailable as error:
            raise InvalidPolicy("identity_regex", f"{error.message}. {error.hint}") from None
        except ValueError as error:
            raise InvalidPolicy("identity_regex", f"{error}.") from None


def _parse_keys(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the keys in their canonical PEM, each once."""
    if len(texts) > MOST_KEYS:
        raise InvalidPolicy("keys", f"At most {MOST_KEYS} keys are allowed.")
    found: dict[str, str] = {}
    for number, text in enumerate(texts, 1):
        if len(text) > _MOST_KEY_CHARACTERS:
            raise InvalidPolicy("keys", f"Key {number} has more than {_MOST_KEY_CHARACTERS} characters.")
        try:
            key = public_key(text)
        except ValueError as error:
            raise InvalidPolicy("keys", f"Key {number} cannot be used. {error}.") from None
        found.setdefault(key.id, key.pem)
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """A signature that a check has accepted.

    *signer* is ``key sha256:<hex of its DER>``, or the identity and its issuer, and with several policies all of these.
    *form* says how the signature is stored: ``cosign-tag``, ``cosign-referrer`` or ``bundle``. *signature* is the
    digest of the manifest with the signature. *policy* is what `key_of` returns for the policies that were checked.
    *verified_at* is RFC 3339 in UTC.
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
