"""What Redis answers when it refuses to work, and what its library raises, as one error with a reason.

redis-py calls a Redis that is full, read-only or loading by five different exceptions, two of them without a class of
their own. Here each becomes a sentence that says what is wrong. A vendor's text never passes: it can hold a command's
arguments.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mirror.errors import RedisUnavailable

_PIPELINE: Final = "of pipeline caused error: "
_FULL_DISK: Final = re.compile("no space left|disk quota exceeded", re.IGNORECASE)
_USE_PRIMARY: Final = "Point MIRROR_REDIS_URL at the primary, or wait until the failover has ended."
_NO_CLUSTER: Final = "Point MIRROR_REDIS_URL at a single Redis or Valkey: the mirror cannot use a cluster."
_CHECK_LOGIN: Final = "Check the user and the password in MIRROR_REDIS_URL."
_BY_ITSELF: Final = "Nothing needs to be done: the mirror goes on by itself."
_MORE_DISK: Final = "Free space on the disk of Redis; the mirror goes on by itself."


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with Redis: ``reason`` continues "Redis, which keeps the jobs, …"."""

    reason: str
    hint: str | None = None


_REFUSALS: Final[dict[str, Trouble]] = {
    "OOM": Trouble(
        "refuses writes: its memory is full (maxmemory)", "Raise maxmemory; the mirror goes on by itself afterwards."
    ),
    "READONLY": Trouble("refuses writes: it is a read-only replica", _USE_PRIMARY),
    "UNBLOCKED": Trouble("refuses writes: it has just become a replica", _USE_PRIMARY),
    "MASTERDOWN": Trouble("does not answer: it is a replica that has lost its primary", _USE_PRIMARY),
    "MISCONF": Trouble("cannot write: it fails to save its data to its disk", _MORE_DISK),
    "NOREPLICAS": Trouble(
        "refuses writes: it has fewer replicas than it must have (min-replicas-to-write)", "Start its replicas."
    ),
    "LOADING": Trouble("is still loading its data", _BY_ITSELF),
    "BUSY": Trouble("is busy with a script", "If that lasts, look for who runs long scripts on this Redis."),
    "CLUSTERDOWN": Trouble("does not answer: its cluster is down", _NO_CLUSTER),
    "TRYAGAIN": Trouble("does not answer: its cluster is moving data", _NO_CLUSTER),
    "MOVED": Trouble("does not answer: it is a node of a cluster", _NO_CLUSTER),
    "ASK": Trouble("does not answer: it is a node of a cluster", _NO_CLUSTER),
    "CROSSSLOT": Trouble("does not answer: it is a node of a cluster", _NO_CLUSTER),
    "NOAUTH": Trouble("wants a password, and MIRROR_REDIS_URL has none", _CHECK_LOGIN),
    "WRONGPASS": Trouble("refuses the user or the password in MIRROR_REDIS_URL", _CHECK_LOGIN),
    "NOPERM": Trouble("does not let its user run a command that the mirror needs", "Extend the ACL of that user."),
}
"""By the code that Redis begins its answer with."""
_CODE: Final = re.compile(rf"(?:^|-|because of: )({'|'.join(_REFUSALS)})\b")
_DISK_FULL: Final = Trouble("cannot write: its disk is full", _MORE_DISK)
_TEXTS: Final[tuple[tuple[str, Trouble], ...]] = (
    (
        "max number of clients reached",
        Trouble("accepts no more connections (maxclients)", "Raise its maxclients, or run fewer processes on it."),
    ),
    (
        "db index",
        Trouble(
            "does not have the database that MIRROR_REDIS_URL names",
            "The number at the end of MIRROR_REDIS_URL must be below its setting 'databases'.",
        ),
    ),
    ("invalid database", Trouble("does not have the database that MIRROR_REDIS_URL names")),
    ("invalid password", _REFUSALS["WRONGPASS"]),
    ("invalid username-password", _REFUSALS["WRONGPASS"]),
    ("without any password configured", Trouble("wants no password, and MIRROR_REDIS_URL has one", _CHECK_LOGIN)),
)
_SILENT: Final = Trouble("does not answer")
_SLOW: Final = Trouble(
    "does not answer in time",
    "Check host, port and network of MIRROR_REDIS_URL; a port without TLS is silent when rediss:// speaks to it.",
)
_CAUSES: Final[tuple[tuple[type[BaseException], Trouble], ...]] = (
    (
        socket.gaierror,
        Trouble("does not answer: its host name is unknown", "Check the host in MIRROR_REDIS_URL, and DNS."),
    ),
    (ConnectionRefusedError, Trouble("does not answer: nothing listens at its address")),
    (FileNotFoundError, Trouble("does not answer: its socket does not exist")),
    (PermissionError, Trouble("does not answer: its socket may not be opened")),
    (
        ssl.SSLCertVerificationError,
        Trouble(
            "shows a TLS certificate that is not trusted",
            "Check its name and its CA; 'ssl_ca_certs=FILE' in MIRROR_REDIS_URL names the CA.",
        ),
    ),
    (
        ssl.SSLError,
        Trouble(
            "does not speak TLS at its address", "Use redis:// in MIRROR_REDIS_URL where the port does not speak TLS."
        ),
    ),
    (TimeoutError, _SLOW),
    (ConnectionError, _SILENT),
    (OSError, Trouble("cannot be reached")),
)
"""By what the library met. The more special kinds come first."""
_STRANGER: Final = Trouble(
    "does not answer: what is at its address does not speak Redis' protocol",
    "Check host and port in MIRROR_REDIS_URL; rediss:// is for a port that speaks TLS.",
)


class RedisRefuses(RedisConnectionError):
    """Redis answered that it cannot work now.

    It is a ConnectionError, so everything that waits for an absent Redis, RQ included, waits for this one too.
    """

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


def refusal(error: ResponseError | InvalidResponse) -> Trouble | None:
    """Why Redis refuses to work; None if *error* is about the command itself."""
    if isinstance(error, InvalidResponse):
        return _STRANGER
    text = str(error)
    text = text[text.rfind(_PIPELINE) + len(_PIPELINE) :] if _PIPELINE in text else text
    code = error.status_code if error.status_code in _REFUSALS else None
    if code is None:
        found = _CODE.search(text)
        code = found[1] if found else None
    if code is None:
        return _by_text(text)
    if code == "MISCONF" and _FULL_DISK.search(text):
        return _DISK_FULL
    return _REFUSALS[code]


def trouble_of(error: RedisError) -> Trouble | None:
    """What *error* says of Redis; None if it is about the command itself."""
    if isinstance(error, RedisRefuses):
        return error.trouble
    if isinstance(error, ResponseError | InvalidResponse):
        return refusal(error)
    if not isinstance(error, RedisConnectionError | RedisTimeoutError):
        return None
    if error.status_code in _REFUSALS:
        return _REFUSALS[error.status_code]
    return _by_text(str(error)) or _by_cause(error)


@contextmanager
def translated() -> Iterator[None]:
    """Raise RedisUnavailable, with the reason, for a Redis that is away or refuses to work."""
    try:
        yield
    except RedisError as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        raise RedisUnavailable(trouble.reason, hint=trouble.hint) from None


def is_passing(error: ResponseError | InvalidResponse) -> bool:
    """Whether the same command may be accepted later. What a user may not do stays forbidden."""
    return not isinstance(error, NoPermissionError) and refusal(error) is not None


def _by_text(text: str) -> Trouble | None:
    lowered = text.lower()
    return next((trouble for part, trouble in _TEXTS if part in lowered), None)


def _by_cause(error: BaseException) -> Trouble:
    """From the exception that *error* was raised for: redis-py's own text says no more than that."""
    if isinstance(error, AuthenticationError):
        return _REFUSALS["WRONGPASS"]
    cause = error.__cause__ or error.__context__
    for kind, trouble in _CAUSES:
        if isinstance(cause, kind):
            return trouble
    return _SLOW if isinstance(error, RedisTimeoutError) else _SILENT
