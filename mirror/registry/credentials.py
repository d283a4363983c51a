"""Credentials, and those of a config.json: ``auths``, ``credHelpers`` and ``credsStore``.

Keys are compared as image names are. Case, a scheme, ``:443``, a path after a scheme, and Docker Hub's many names make
no difference.

A credential helper is a program of docker-credential-helpers' protocol. ``docker-credential-<name> get`` reads the
server's address from stdin and writes JSON to stdout. It runs without a shell, with bounded time and output. Its output
is never shown, and its environment has none of our secrets.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mirror.errors import CredentialsUnavailable, InvalidReference, quoted
from mirror.oci.reference import DOCKER_HUB, normalise_registry

HELPER_SECONDS: Final = 10
_CONFIG_SIZE: Final = 1024 * 1024
_DOCKER_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_IDENTITY_TOKEN_USER: Final = "<token>"  # noqa: S105 - a user name that says the secret is a token
_KEY: Final = re.compile(r"(https?://)?(?:[^/@]*@)?([^/]+)/*(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
_VERSIONS: Final = ("", "v1", "v2")
"""Paths after a host that old clients wrote for the API version. They are no namespace."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_HEADER_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
_HELPER_OUTPUT: Final = 64 * 1024
_HELPER_NAME: Final = re.compile(r"[a-z0-9-]+", re.ASCII)
_OWN_PREFIXES: Final = ("MIRROR_", "RCLONE_")
"""Prefixes of our settings, among them the admin token and the Redis URL, and of the embedded S3's keys."""
_BUCKET_KEYS: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_ACCESS_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SECRET_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
    }
)
"""The bucket's keys, in all spellings that AWS SDKs read. A helper for ECR uses a profile or a role instead."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and password, an identity token, or a registry token.

    An identity token is exchanged at the token server (OAuth2 refresh token). A registry token is sent to the registry
    itself, as Bearer. User and password may hold any bytes. Bytes that are not UTF-8 are kept as surrogate escapes.
    """

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str | None:
        """The Authorization header of scheme Basic. None for a token."""
        if self.identity_token or self.registry_token:
            return None
        return "Basic " + base64.b64encode(to_bytes(f"{self.username}:{self.password}")).decode()

    @property
    def bearer(self) -> str | None:
        """The Authorization header of an access token that is used as the password. None if it cannot be one."""
        is_token = is_header_token(self.password) and not (self.identity_token or self.registry_token)
        return f"Bearer {self.password}" if is_token else None


def is_header_token(text: str) -> bool:
    """Whether *text* can be sent as a Bearer token."""
    return _HEADER_TOKEN.fullmatch(text) is not None


def to_bytes(text: str) -> bytes:
    """Return the bytes of a user, password or token, as they were configured."""
    return text.encode("utf-8", "surrogateescape")


class DockerConfig:
    """A config.json.

    It is read again for every lookup, so that a login is seen without a restart.
    """

    def __init__(self, path: Path, *, helper_seconds: float = HELPER_SECONDS) -> None:
        self._path = path
        self._helper_seconds = helper_seconds

    def credential(self, registry: str, repository: str) -> Credential | None:
        """Return the most specific credential, None if there is none.

        Raises CredentialsUnavailable. A helper of the registry comes first, then the longest ``registry/namespace``,
        then the general store.
        """
        config = self._load(registry)
        for key, helper in _entries(config, "credHelpers", registry, registry):
            if helper:
                return self._from_helper(str(helper), key, registry)
        for name in lookup_names(registry, repository):
            for _, entry in _entries(config, "auths", registry, name):
                if found := _Entry(entry, name, registry).credential():
                    return found
        if store := config.get("credsStore"):
            found_by_key = (self._from_helper(str(store), key, registry) for key in _keys(registry))
            return next((credential for credential in found_by_key if credential), None)
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

    def _from_helper(self, helper: str, server: str, registry: str) -> Credential | None:
        found = _run_helper(helper, server, registry, self._helper_seconds)
        if found is None or not found[1]:
            return None
        username, secret = (_encodable(text, f"the answer of docker-credential-{helper}", registry) for text in found)
        return _credential(username, secret)


def _keys(registry: str) -> tuple[str, ...]:
    """Return the keys that Docker itself writes for a registry, the best one first."""
    return _DOCKER_HUB_KEYS if registry == DOCKER_HUB else (registry, f"https://{registry}")


def lookup_names(registry: str, repository: str) -> Iterator[str]:
    """Yield the names under which a credential for a repository may be, the most specific first.

    That is each ``registry/namespace``, the longest first, then the registry.
    """
    parts = repository.split("/")
    for length in range(len(parts), 0, -1):
        yield f"{registry}/{'/'.join(parts[:length])}"
    yield registry


def _entries(config: Mapping[str, Any], kind: str, registry: str, name: str) -> list[tuple[str, Any]]:
    """Return the keys that stand for *name*, with their values.

    Keys that Docker writes come first, then by alphabet.
    """
    found = [(key, value) for key, value in (config.get(kind) or {}).items() if credential_key(key) == name]
    preferred = {key: rank for rank, key in enumerate(_keys(registry))}
    return sorted(found, key=lambda item: (item[0] != name, preferred.get(item[0], len(preferred)), item[0]))


def credential_key(key: str) -> str | None:
    """Return the registry, or ``registry/namespace``, that a key stands for.

    None if it is no name. With a scheme, the path has no meaning, as in ``https://index.docker.io/v1/``. Without one it
    is a namespace.
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
    """One entry of ``auths``.

    *name* is the registry or namespace that it is for. Errors use it.
    """

    def __init__(self, value: object, name: str, registry: str) -> None:
        self._value = value
        self._name = name
        self._registry = registry

    def credential(self) -> Credential | None:
        """Return the entry's credential.

        None for an empty entry, which Docker writes if a credential store is used. A registry token wins over an
        identity token, that over ``auth``, and that over user and password.
        """
        if self._value is None:
            return None
        if not isinstance(self._value, dict):
            raise self._unusable("is not a JSON object")
        if token := self._text("registrytoken"):
            if not is_header_token(token):
                raise self._unusable("cannot stand in a header", "registrytoken")
            return Credential(_IDENTITY_TOKEN_USER, "", registry_token=token)
        if token := self._text("identitytoken"):
            return Credential(_IDENTITY_TOKEN_USER, "", token)
        if auth := self._text("auth"):
            return self._decoded(auth)
        user, password = self._text("username"), self._text("password")
        return _credential(user, password) if user and password else None

    def _decoded(self, auth: str) -> Credential:
        """Decode ``auth`` as Go does: skip line breaks, and keep any bytes.

        Missing padding is accepted. NULs around the password are cut off, as Docker does.
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
        return _encodable(value or "", f"'{field_name}' of {quoted(self._name)}", self._registry)

    def _unusable(self, problem: str, field_name: str = "") -> CredentialsUnavailable:
        """Return an error that names the entry and its field, never their content."""
        what = f"'{field_name}' of {quoted(self._name)}" if field_name else f"the entry {quoted(self._name)}"
        return CredentialsUnavailable(self._registry, f"{what} in 'auths' of the config.json {problem}")


def _encodable(text: str, what: str, registry: str) -> str:
    """Return *text* if it can be encoded.

    JSON can contain half a surrogate pair, which cannot.
    """
    try:
        to_bytes(text)
    except UnicodeEncodeError:
        raise CredentialsUnavailable(registry, f"{what} has half a character in it") from None
    return text


def _credential(username: str, secret: str) -> Credential:
    return Credential(username, "", secret) if username == _IDENTITY_TOKEN_USER else Credential(username, secret)


def _run_helper(name: str, server: str, registry: str, seconds: float) -> tuple[str, str] | None:
    """Run a credential helper.

    Returns a user and a secret, or None if it has nothing for the server. Raises CredentialsUnavailable.
    """
    if not _HELPER_NAME.fullmatch(name):
        raise CredentialsUnavailable(registry, "the name of its credential helper is malformed")
    program = f"docker-credential-{name}"
    output, failed = _run_program(program, server, registry, seconds)
    if failed:
        if b"credentials not found" in output:
            return None
        raise CredentialsUnavailable(registry, f"{program} failed")
    try:
        reply = json.loads(output)
        username, secret = reply["Username"], reply["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CredentialsUnavailable(registry, f"{program} answered in no known form") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise CredentialsUnavailable(registry, f"{program} answered in no known form")
    return username, secret


def _run_program(program: str, server: str, registry: str, seconds: float) -> tuple[bytes, bool]:
    """Return what the program printed and whether it failed.

    It is killed if it takes too long or prints too much.
    """
    try:
        child = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={n: v for n, v in os.environ.items() if n not in _BUCKET_KEYS and not n.startswith(_OWN_PREFIXES)},
            start_new_session=True,
        )
    except OSError:
        raise CredentialsUnavailable(registry, f"{program} is not installed or cannot be run") from None
    alarm = threading.Timer(seconds, _kill, [child])
    alarm.start()
    try:
        with child:
            output = _communicate(child, server)
    finally:
        alarm.cancel()
    if len(output) > _HELPER_OUTPUT:
        raise CredentialsUnavailable(registry, f"{program} printed more than {_HELPER_OUTPUT} bytes")
    if child.returncode < 0:
        raise CredentialsUnavailable(registry, f"{program} did not end within {seconds:g} s, or was killed")
    return output, child.returncode != 0


def _communicate(child: subprocess.Popen[bytes], server: str) -> bytes:
    """Write the server's address and read the reply.

    At most one byte more than allowed is read. A child that writes more is killed.
    """
    assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - both are pipes
    try:
        child.stdin.write(server.encode())
        child.stdin.close()
    except BrokenPipeError:
        pass  # it replies without reading
    output = child.stdout.read(_HELPER_OUTPUT + 1)
    if len(output) > _HELPER_OUTPUT:
        _kill(child)
    return output


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the helper and all processes that it started.

    One that survives would keep the pipe open.
    """
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
