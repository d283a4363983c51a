"""Credentials as Docker keeps them: ``auths``, ``credHelpers`` and ``credsStore`` of a config.json.

Keys are read as image names are: case, a scheme, ``:443``, a path after a scheme, and Docker Hub's many names make no
difference. Helper programs follow docker-credential-helpers' protocol: `mirror.registry.credential_helper`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mirror.errors import CredentialsUnavailable, InvalidReference, quoted
from mirror.oci.reference import DOCKER_HUB, normalise_registry
from mirror.registry.credential_helper import HELPER_SECONDS, ask_helper

_CONFIG_SIZE: Final = 1024 * 1024
_DOCKER_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_IDENTITY_TOKEN_USER: Final = "<token>"  # noqa: S105 - a user name that says the secret is a token
_KEY: Final = re.compile(r"(https?://)?(?:[^/@]*@)?([^/]+)/*(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
_VERSIONS: Final = ("", "v1", "v2")
"""What stands behind a host's slash where old clients wrote an API's path: no namespace."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_HEADER_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and password, an identity token, or a registry token.

    An identity token is exchanged at the token server (OAuth2 refresh token). A registry token is sent to the registry
    itself, as Bearer. User and password may hold any bytes: those that are not UTF-8 are kept as surrogate escapes.
    """

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str | None:
        """The Authorization of scheme Basic; None for a token."""
        if self.identity_token or self.registry_token:
            return None
        return "Basic " + base64.b64encode(to_bytes(f"{self.username}:{self.password}")).decode()


def to_bytes(text: str) -> bytes:
    """The bytes of a user, password or token, as they were configured."""
    return text.encode("utf-8", "surrogateescape")


class DockerConfig:
    """A config.json, read anew for every question, so that a login is seen without a restart."""

    def __init__(self, path: Path, *, helper_seconds: float = HELPER_SECONDS) -> None:
        self._path = path
        self._helper_seconds = helper_seconds

    def credential(self, registry: str, repository: str) -> Credential | None:
        """The most specific entry: a helper of the registry, the longest ``registry/namespace``, the general store."""
        config = self._load(registry)
        for key, helper in _entries(config, "credHelpers", registry, registry):
            if helper:
                return self._ask(str(helper), key, registry)
        for name in _names(registry, repository):
            for _, entry in _entries(config, "auths", registry, name):
                if found := _Entry(entry, name, registry).credential():
                    return found
        if store := config.get("credsStore"):
            answers = (self._ask(str(store), key, registry) for key in _keys(registry))
            return next((answer for answer in answers if answer), None)
        return None

    def _load(self, registry: str) -> dict[str, Any]:
        try:
            if self._path.stat().st_size > _CONFIG_SIZE:
                raise CredentialsUnavailable(registry, f"{self._path} is larger than a config.json can be")
            config = json.loads(self._path.read_bytes())
        except OSError:
            raise CredentialsUnavailable(registry, f"{self._path} cannot be read") from None
        except (ValueError, RecursionError):
            raise CredentialsUnavailable(registry, f"{self._path} is not JSON") from None
        if not isinstance(config, dict):
            raise CredentialsUnavailable(registry, f"{self._path} is not a JSON object")
        for name in ("auths", "credHelpers"):
            if not isinstance(config.get(name), dict | None):
                raise CredentialsUnavailable(registry, f"'{name}' in {self._path} is not a JSON object")
        return config

    def _ask(self, helper: str, server: str, registry: str) -> Credential | None:
        answer = ask_helper(helper, server, registry, self._helper_seconds)
        if answer is None or not answer[1]:
            return None
        username, secret = (_sendable(text, f"the answer of docker-credential-{helper}", registry) for text in answer)
        return _credential(username, secret)


def _keys(registry: str) -> tuple[str, ...]:
    """The keys that Docker itself writes for a registry, the best one first."""
    return _DOCKER_HUB_KEYS if registry == DOCKER_HUB else (registry, f"https://{registry}")


def _names(registry: str, repository: str) -> Iterator[str]:
    """What an entry of ``auths`` may be for, the most specific first: ``registry/namespace``, then the registry."""
    parts = repository.split("/")
    for length in range(len(parts), 0, -1):
        yield f"{registry}/{'/'.join(parts[:length])}"
    yield registry


def _entries(config: Mapping[str, Any], kind: str, registry: str, name: str) -> list[tuple[str, Any]]:
    """The keys that mean *name*, with their values: first those that Docker writes, then the others by the alphabet."""
    found = [(key, value) for key, value in (config.get(kind) or {}).items() if _meaning(key) == name]
    preferred = {key: rank for rank, key in enumerate(_keys(registry))}
    return sorted(found, key=lambda item: (item[0] != name, preferred.get(item[0], len(preferred)), item[0]))


def _meaning(key: str) -> str | None:
    """The registry, or ``registry/namespace``, that a key of config.json stands for; None if it is no name.

    Behind a scheme stands a host and a path that says nothing, as in ``https://index.docker.io/v1/``. Only without a
    scheme is the path a namespace.
    """
    match = _KEY.fullmatch(key.strip()) if key.isascii() else None
    if match is None:
        return None
    scheme, host, path = match.groups()
    plain = "." in host or ":" in host or host.lower() == "localhost"
    port = ":80" if scheme and scheme.lower() == "http://" else ":443"
    try:
        registry = normalise_registry(host if plain else host + port, key)
    except InvalidReference:
        return None
    namespace = path.strip("/")
    return registry if scheme or namespace in _VERSIONS else f"{registry}/{namespace}"


class _Entry:
    """One entry of ``auths``; *name* is what it is for, and what errors call it."""

    def __init__(self, value: object, name: str, registry: str) -> None:
        self._value = value
        self._name = name
        self._registry = registry

    def credential(self) -> Credential | None:
        """None for an empty entry, which is what a credential store leaves behind.

        Where several are given, a registry token wins, then an identity token, then ``auth`` over user and password.
        """
        if self._value is None:
            return None
        if not isinstance(self._value, dict):
            raise self._unusable("is not a JSON object")
        if token := self._text("registrytoken"):
            if not _HEADER_TOKEN.fullmatch(token):
                raise self._unusable("cannot stand in a header", "registrytoken")
            return Credential(_IDENTITY_TOKEN_USER, "", registry_token=token)
        if token := self._text("identitytoken"):
            return Credential(_IDENTITY_TOKEN_USER, "", token)
        if auth := self._text("auth"):
            return self._decoded(auth)
        user, password = self._text("username"), self._text("password")
        return _credential(user, password) if user and password else None

    def _decoded(self, auth: str) -> Credential:
        """Read ``auth`` as Go's base64.StdEncoding does: line breaks are skipped anywhere, and any bytes are kept.

        Padding that is missing is not missed. NULs around the password are cut off, as Docker does.
        """
        text = auth.replace("\r", "").replace("\n", "")
        digits = text.rstrip("=")
        if not _BASE64.fullmatch(text) or len(digits) % 4 == 1:
            raise self._unusable("is not base64", "auth")
        decoded = base64.b64decode(digits + "=" * (-len(digits) % 4)).decode("utf-8", "surrogateescape")
        user, colon, password = decoded.partition(":")
        if not colon:
            raise self._unusable("is not 'user:password' in base64", "auth")
        return _credential(user, password.strip("\0"))

    def _text(self, field_name: str) -> str:
        assert isinstance(self._value, dict)  # noqa: S101 - for mypy
        value = self._value.get(field_name)
        if value is not None and not isinstance(value, str):
            raise self._unusable("is not a string", field_name)
        return _sendable(value or "", f"'{field_name}' of {quoted(self._name)}", self._registry)

    def _unusable(self, problem: str, field_name: str = "") -> CredentialsUnavailable:
        """Names the entry and its field, never what stands there."""
        what = f"'{field_name}' of {quoted(self._name)}" if field_name else f"the entry {quoted(self._name)}"
        return CredentialsUnavailable(self._registry, f"{what} in 'auths' of the config.json {problem}")


def _sendable(text: str, what: str, registry: str) -> str:
    """*text* if it can be written as bytes; JSON can spell half characters, which cannot."""
    try:
        to_bytes(text)
    except UnicodeEncodeError:
        raise CredentialsUnavailable(registry, f"{what} has half a character in it") from None
    return text


def _credential(username: str, secret: str) -> Credential:
    return Credential(username, "", secret) if username == _IDENTITY_TOKEN_USER else Credential(username, secret)
