"""Credentials as Docker keeps them: ``auths``, ``credHelpers`` and ``credsStore`` of a config.json.

Helper programs follow docker-credential-helpers' protocol: ``docker-credential-<name> get``, the server's address on
stdin, JSON on stdout. They run without a shell, bounded in time and output; what they print is never shown.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mirror.errors import CredentialsUnavailable
from mirror.oci.reference import DOCKER_HUB

HELPER_SECONDS: Final = 10
_HELPER_OUTPUT: Final = 64 * 1024
_CONFIG_SIZE: Final = 1024 * 1024
_HELPER_NAME: Final = re.compile(r"[a-z0-9-]+", re.ASCII)
_DOCKER_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_IDENTITY_TOKEN_USER: Final = "<token>"  # noqa: S105 - a user name that says the secret is a token


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and password, or an identity token, which is exchanged at the token server (OAuth2 refresh token)."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)


class DockerConfig:
    """A config.json, read anew for every question, so that a login is seen without a restart."""

    def __init__(self, path: Path, *, helper_seconds: float = HELPER_SECONDS) -> None:
        self._path = path
        self._helper_seconds = helper_seconds

    def credential(self, registry: str, repository: str) -> Credential | None:
        """The most specific entry: a helper of the registry, the longest ``registry/namespace``, the general store."""
        config = self._load(registry)
        for key in _keys(registry):
            if helper := _mapping(config, "credHelpers").get(key):
                return self._ask(str(helper), key, registry)
        for key in _candidates(registry, repository):
            if (entry := _auths(config).get(key)) is not None and (found := _from_entry(entry, registry)):
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

    def _ask(self, name: str, server: str, registry: str) -> Credential | None:
        """Run a helper; None if it has nothing for the server."""
        if not _HELPER_NAME.fullmatch(name):
            raise CredentialsUnavailable(registry, "the name of its credential helper is malformed")
        program = f"docker-credential-{name}"
        output, failed = _run(program, server, registry, self._helper_seconds)
        if failed:
            if b"credentials not found" in output:
                return None
            raise CredentialsUnavailable(registry, f"{program} failed")
        try:
            answer = json.loads(output)
            username, secret = answer["Username"], answer["Secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CredentialsUnavailable(registry, f"{program} answered in no known form") from None
        if not isinstance(username, str) or not isinstance(secret, str):
            raise CredentialsUnavailable(registry, f"{program} answered in no known form")
        return _credential(username, secret) if secret else None


def _run(program: str, server: str, registry: str, seconds: float) -> tuple[bytes, bool]:
    """What it printed and whether it failed; it is killed when it takes too long or prints too much."""
    try:
        child = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        raise CredentialsUnavailable(registry, f"{program} is not installed or cannot be run") from None
    alarm = threading.Timer(seconds, _kill, [child])
    alarm.start()
    try:
        with child:
            output = _exchange(child, server)
    finally:
        alarm.cancel()
    if len(output) > _HELPER_OUTPUT:
        raise CredentialsUnavailable(registry, f"{program} printed more than {_HELPER_OUTPUT} bytes")
    if child.returncode < 0:
        raise CredentialsUnavailable(registry, f"{program} did not end within {seconds:g} s, or was killed")
    return output, child.returncode != 0


def _exchange(child: subprocess.Popen[bytes], server: str) -> bytes:
    """Write the question, read the answer and one byte more than is allowed; then the child may go."""
    assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - both are pipes
    try:
        child.stdin.write(server.encode())
        child.stdin.close()
    except BrokenPipeError:
        pass  # it answers without asking
    output = child.stdout.read(_HELPER_OUTPUT + 1)
    if len(output) > _HELPER_OUTPUT:
        _kill(child)
    return output


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the helper and all that it started: a grandchild would keep the pipe open."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _keys(registry: str) -> tuple[str, ...]:
    """The names under which Docker knows a registry."""
    return _DOCKER_HUB_KEYS if registry == DOCKER_HUB else (registry, f"https://{registry}")


def _candidates(registry: str, repository: str) -> Iterator[str]:
    """The keys of ``auths`` from the most specific on: ``registry/namespace`` before the registry itself."""
    parts = repository.split("/")
    for length in range(len(parts), 0, -1):
        yield f"{registry}/{'/'.join(parts[:length])}"
    yield from _keys(registry)


def _auths(config: dict[str, Any]) -> dict[str, Any]:
    """``auths`` with its keys stripped of what old clients wrote around them: scheme, ``/v1/``, a slash at the end."""
    entries = _mapping(config, "auths")
    stripped = {re.sub(r"^https?://|/v[12]/?$|/$", "", key): entry for key, entry in entries.items()}
    return {**stripped, **entries}


def _mapping(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _from_entry(entry: object, registry: str) -> Credential | None:
    """An entry of ``auths``; None for an empty one, which is what a credential store leaves behind."""
    if not isinstance(entry, dict):
        return None
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Credential(_IDENTITY_TOKEN_USER, "", token)
    if isinstance(user := entry.get("username"), str) and isinstance(password := entry.get("password"), str) and user:
        return _credential(user, password)
    auth = entry.get("auth")
    if not isinstance(auth, str) or not auth:
        return None
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise CredentialsUnavailable(registry, "its 'auth' in the config.json is not base64") from None
    if not colon:
        raise CredentialsUnavailable(registry, "its 'auth' in the config.json is not 'user:password' in base64")
    return _credential(user, password.rstrip("\0"))


def _credential(username: str, secret: str) -> Credential:
    return Credential(username, "", secret) if username == _IDENTITY_TOKEN_USER else Credential(username, secret)
