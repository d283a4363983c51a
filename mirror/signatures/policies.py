"""The policies of the settings: which repositories need signatures, whatever a job asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Self, TypeGuard

from mirror.errors import InvalidInput
from mirror.oci.glob import Glob
from mirror.oci.reference import Reference
from mirror.signatures.policy import InvalidPolicy, SignaturePolicy

_MOST_POLICIES: Final = 100
_MOST_SOURCES: Final = 100
_FORM: Final = 'a JSON list of objects such as {"sources": ["docker.io/acme/*"], "keys": ["-----BEGIN PUBLIC KEY…"]}'
_FIELDS: Final = ("keys", "identity", "identity_regex", "issuer", "trusted_root")
_EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """Who must have signed the images of some sources. A source is a glob for a registry and its repository."""

    sources: tuple[Glob, ...]
    policy: SignaturePolicy

    def applies_to(self, reference: Reference) -> bool:
        return any(source.matches(reference.name) for source in self.sources)


@dataclass(frozen=True, slots=True)
class SignaturePolicies:
    """All policies of the settings."""

    entries: tuple[SourcePolicy, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of the setting. Raises ValueError, whose message is the rest of a sentence about it.

        The message never repeats the text, because it may have a private key in it by mistake.
        """
        try:
            document = json.loads(text, object_pairs_hook=_without_duplicates) if text else []
        except (ValueError, RecursionError):
            raise ValueError(f"must be {_FORM}, each field once") from None
        if not isinstance(document, list) or len(document) > _MOST_POLICIES:
            raise ValueError(f"must be {_FORM}, at most {_MOST_POLICIES}")
        return cls(tuple(_entry(entry, number) for number, entry in enumerate(document, 1)))

    def of(self, reference: Reference, own: SignaturePolicy | None = None) -> tuple[SignaturePolicy, ...]:
        """Return all policies that an image must satisfy, each once: those of the settings, and *own* of its job.

        A job adds a policy. It takes none away.
        """
        found = [entry.policy for entry in self.entries if entry.applies_to(reference)]
        return tuple(dict.fromkeys([*found, own] if own else found))

    def __bool__(self) -> bool:
        return bool(self.entries)

    @property
    def trusted_roots(self) -> frozenset[str]:
        """The names of the trusted roots that the policies need."""
        return frozenset(entry.policy.trusted_root for entry in self.entries if entry.policy.trusted_root)


def _entry(entry: object, number: int) -> SourcePolicy:
    if not isinstance(entry, dict) or entry.keys() - {"sources", *_FIELDS}:
        raise ValueError(f"must be {_FORM}: entry {number} is no object of 'sources' and {', '.join(_FIELDS)}")
    sources = entry.get("sources")
    if not _is_list_of_texts(sources) or not 1 <= len(sources) <= _MOST_SOURCES:
        raise ValueError(f"needs a list of 1 to {_MOST_SOURCES} 'sources' in entry {number}")
    globs = tuple(_source(text, f"source {at} of entry {number}") for at, text in enumerate(sources, 1))
    return SourcePolicy(globs, _policy({name: entry[name] for name in _FIELDS if name in entry}, number))


def _policy(fields: dict[str, Any], number: int) -> SignaturePolicy:
    if not _is_list_of_texts(fields.get("keys", [])):
        raise ValueError(f"has 'keys' that are not a list of texts in entry {number}")
    if not all(isinstance(value, str) for name, value in fields.items() if name != "keys"):
        raise ValueError(f"has a field that is not a text in entry {number}")
    try:
        return SignaturePolicy.parse(**fields)
    except InvalidPolicy as error:
        raise ValueError(f"has a wrong '{error.field}' in entry {number}: {error}") from None


def _source(text: str, where: str) -> Glob:
    """Parse a glob for names such as ``docker.io/library/redis``.

    A glob that no name can match is refused: such a policy would never apply, without any error.
    """
    if text != _EVERYTHING:
        example = f"{text[:-1]}x/x" if text.endswith("/*") else text
        example = example.replace("*", "x").replace("?", "x")
        try:
            matches = Reference.parse(example).name == example
        except InvalidInput:
            matches = False
        if not matches:
            raise ValueError(
                f"has a {where} that no image matches. Write the whole name in lower case, with its registry and "
                "without tag, such as docker.io/library/redis or docker.io/acme/*"
            )
    return Glob.parse(text)


def _is_list_of_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields
