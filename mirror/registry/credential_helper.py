"""Asking a credential helper: ``docker-credential-<name> get``, the server's address on stdin, JSON on stdout.

A helper runs without a shell, bounded in time and output, and what it prints is never shown. Its environment has
nothing of ours that is secret.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from mirror.errors import CredentialsUnavailable

HELPER_SECONDS: Final = 10
_HELPER_OUTPUT: Final = 64 * 1024
_HELPER_NAME: Final = re.compile(r"[a-z0-9-]+", re.ASCII)
_OURS: Final = ("MIRROR_", "RCLONE_")
"""Our settings with the admin token and the Redis URL, and the embedded S3's keys."""
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
"""The bucket's keys, in all spellings that AWS SDKs read. A helper for ECR finds a profile or a role instead."""


def helper_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* without the admin token, the Redis URL and the keys of S3."""
    return {n: value for n, value in environment.items() if n not in _BUCKET_KEYS and not n.startswith(_OURS)}


def ask_helper(name: str, server: str, registry: str, seconds: float) -> tuple[str, str] | None:
    """Run a helper; returns a user and a secret, or None if it has nothing for the server.

    Raises CredentialsUnavailable.
    """
    if not _HELPER_NAME.fullmatch(name):
        raise CredentialsUnavailable(registry, "the name of its credential helper is malformed")
    program = f"docker-credential-{name}"
    output, failed = _run(program, server, registry, seconds)
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
    return username, secret


def _run(program: str, server: str, registry: str, seconds: float) -> tuple[bytes, bool]:
    """What it printed and whether it failed; it is killed when it takes too long or prints too much."""
    try:
        child = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=helper_environment(os.environ),
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
