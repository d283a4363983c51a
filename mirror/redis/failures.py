"""Turn what redis-py raises into one error with a reason, and retry.

redis-py reports a Redis that is full, read-only or loading by five different exceptions, two of them without a class of
their own. Here each becomes a sentence that says what is wrong. No text of Redis or redis-py reaches a user or the log,
because it can hold a command's arguments.

Commands, pipelines, transactions, pub/sub and the connection itself all go through the one `Retry` of their connection,
for our own code as for RQ. So `RedisRetry` is the one place where a refusal becomes an error that is retried.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from time import monotonic, sleep
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import redis
import structlog
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from mirror.errors import RedisUnavailable

PATIENT: Final = 120
"""Retries of a worker's task or a scheduler. They last about two minutes: Redis can restart and load its data."""
BRISK: Final = 2
"""Retries of the API, which returns 503 soon instead of keeping its client waiting."""
FOREVER: Final = -1
"""Retries of a worker that waits for work: without Redis there is none."""

T = TypeVar("T")
_LOG = structlog.get_logger(__name__)
_REMINDER_SECONDS: Final = 30.0
_REFUSAL_PAUSE: Final = 0.1
"""Seconds to wait after a refusal: RQ repeats a watched transaction at once, without limit (handle_job_success)."""
_QUIET_SECONDS: Final = 30.0
_PIPELINE: Final = "of pipeline caused error: "
_FULL_DISK: Final = re.compile("no space left|disk quota exceeded", re.IGNORECASE)
_USE_PRIMARY: Final = "Point MIRROR_REDIS_URL at the primary, or wait until the failover has ended."
_NO_CLUSTER: Final = "Point MIRROR_REDIS_URL at a single Redis or Valkey: the mirror cannot use a cluster."
_CHECK_LOGIN: Final = "Check the user and the password in MIRROR_REDIS_URL."
_BY_ITSELF: Final = "Nothing needs to be done: the mirror continues by itself."
_MORE_DISK: Final = "Free space on the disk of Redis. The mirror continues by itself."


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is wrong with Redis.

    ``reason`` continues the sentence "Redis, which keeps the jobs, …".
    """

    reason: str
    hint: str | None = None


_REFUSALS: Final[dict[str, _Problem]] = {
    "OOM": _Problem(
        "refuses writes: its memory is full (maxmemory)", "Raise maxmemory. The mirror then continues by itself."
    ),
    "READONLY": _Problem("refuses writes: it is a read-only replica", _USE_PRIMARY),
    "UNBLOCKED": _Problem("refuses writes: it has just become a replica", _USE_PRIMARY),
    "MASTERDOWN": _Problem("does not answer: it is a replica that has lost its primary", _USE_PRIMARY),
    "MISCONF": _Problem("cannot write: it fails to save its data to its disk", _MORE_DISK),
    "NOREPLICAS": _Problem(
        "refuses writes: it has fewer replicas than it must have (min-replicas-to-write)", "Start its replicas."
    ),
    "LOADING": _Problem("is still loading its data", _BY_ITSELF),
    "BUSY": _Problem("is busy with a script", "If that lasts, find the client that runs long scripts on this Redis."),
    "CLUSTERDOWN": _Problem("does not answer: its cluster is down", _NO_CLUSTER),
    "TRYAGAIN": _Problem("does not answer: its cluster is moving data", _NO_CLUSTER),
    "MOVED": _Problem("does not answer: it is a node of a cluster", _NO_CLUSTER),
    "ASK": _Problem("does not answer: it is a node of a cluster", _NO_CLUSTER),
    "CROSSSLOT": _Problem("does not answer: it is a node of a cluster", _NO_CLUSTER),
    "NOAUTH": _Problem("wants a password, and MIRROR_REDIS_URL has none", _CHECK_LOGIN),
    "WRONGPASS": _Problem("refuses the user or the password in MIRROR_REDIS_URL", _CHECK_LOGIN),
    "NOPERM": _Problem("does not let its user run a command that the mirror needs", "Extend the ACL of that user."),
}
"""By the code at the start of Redis' error reply."""
_CODE: Final = re.compile(rf"(?:^|-|because of: )({'|'.join(_REFUSALS)})\b")
_DISK_FULL: Final = _Problem("cannot write: its disk is full", _MORE_DISK)
_TEXTS: Final[tuple[tuple[str, _Problem], ...]] = (
    (
        "max number of clients reached",
        _Problem("accepts no more connections (maxclients)", "Raise its maxclients, or run fewer processes on it."),
    ),
    (
        "db index",
        _Problem(
            "does not have the database that MIRROR_REDIS_URL names",
            "The number at the end of MIRROR_REDIS_URL must be below its setting 'databases'.",
        ),
    ),
    ("invalid database", _Problem("does not have the database that MIRROR_REDIS_URL names")),
    ("invalid password", _REFUSALS["WRONGPASS"]),
    ("invalid username-password", _REFUSALS["WRONGPASS"]),
    ("without any password configured", _Problem("wants no password, and MIRROR_REDIS_URL has one", _CHECK_LOGIN)),
)
_SILENT: Final = _Problem("does not answer")
_SLOW: Final = _Problem(
    "does not answer in time",
    "Check host, port and network of MIRROR_REDIS_URL. A port without TLS does not answer rediss://.",
)
_CAUSES: Final[tuple[tuple[type[BaseException], _Problem], ...]] = (
    (
        socket.gaierror,
        _Problem("does not answer: its host name is unknown", "Check the host in MIRROR_REDIS_URL, and DNS."),
    ),
    (ConnectionRefusedError, _Problem("does not answer: nothing listens at its address")),
    (FileNotFoundError, _Problem("does not answer: its socket does not exist")),
    (PermissionError, _Problem("does not answer: its socket may not be opened")),
    (
        ssl.SSLCertVerificationError,
        _Problem(
            "shows a TLS certificate that is not trusted",
            "Check its name and its CA: 'ssl_ca_certs=FILE' in MIRROR_REDIS_URL names the CA.",
        ),
    ),
    (
        ssl.SSLError,
        _Problem(
            "does not speak TLS at its address", "Use redis:// in MIRROR_REDIS_URL where the port does not speak TLS."
        ),
    ),
    (TimeoutError, _SLOW),
    (ConnectionError, _SILENT),
    (OSError, _Problem("cannot be reached")),
)
"""By the exception that redis-py caught. Subclasses come before their base classes."""
_NOT_REDIS: Final = _Problem(
    "does not answer: what is at its address does not speak Redis' protocol",
    "Check host and port in MIRROR_REDIS_URL. Use rediss:// for a port that speaks TLS.",
)


class _RedisRefused(RedisConnectionError):
    """Raised for a reply that says that Redis cannot work now.

    It is a ConnectionError, so code that waits for an absent Redis waits for this one too. RQ's code is an example.
    """

    def __init__(self, problem: _Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


@contextmanager
def translated() -> Iterator[None]:
    """Raise RedisUnavailable for a Redis that is away or refuses to work.

    Errors of the command itself pass unchanged.
    """
    try:
        yield
    except RedisError as error:
        problem = _problem_of(error)
        if problem is None:
            raise
        raise RedisUnavailable(problem.reason, hint=problem.hint) from None


def raise_refusals(replies: Iterable[Any]) -> list[Any]:
    """Return *replies*, in which a ResponseError stands for a command that failed.

    Raises RedisUnavailable for a reply that says that Redis refuses to work: that is no fault of the command.
    """
    found = list(replies)
    with translated():
        for reply in found:
            if isinstance(reply, RedisError) and _problem_of(reply) is not None:
                raise reply
    return found


def _problem_of(error: RedisError) -> _Problem | None:
    """Return what *error* says about Redis, None if it is about the command itself."""
    if isinstance(error, _RedisRefused):
        return error.problem
    if isinstance(error, ResponseError | InvalidResponse):
        return _refusal(error)
    if not isinstance(error, RedisConnectionError | RedisTimeoutError):
        return None
    if error.status_code in _REFUSALS:
        return _REFUSALS[error.status_code]
    return _by_text(str(error)) or _by_cause(error)


def _refusal(error: ResponseError | InvalidResponse) -> _Problem | None:
    """Return why Redis refuses to work, None if *error* is about the command itself."""
    if isinstance(error, InvalidResponse):
        return _NOT_REDIS
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


def _by_text(text: str) -> _Problem | None:
    lowered = text.lower()
    return next((problem for part, problem in _TEXTS if part in lowered), None)


def _by_cause(error: BaseException) -> _Problem:
    """Return the problem by the cause of *error*.

    redis-py's own text says no more than that.
    """
    if isinstance(error, AuthenticationError):
        return _REFUSALS["WRONGPASS"]
    cause = error.__cause__ or error.__context__
    for kind, problem in _CAUSES:
        if isinstance(cause, kind):
            return problem
    return _SLOW if isinstance(error, RedisTimeoutError) else _SILENT


def address_of(url: str) -> str:
    """Return ``host:port``, or the path of a socket.

    It never has the user, the password or the query.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or "localhost"
    return f"[{host}]:{parts.port or 6379}" if ":" in host else f"{host}:{parts.port or 6379}"


class _OutageLog:
    """Log when one Redis fails for this process, and when it works again.

    The attributes are set without a lock. At worst two threads log the same problem twice.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._since: float | None = None
        self._failed_at = -inf
        self._logged_at: dict[str, float] = {}
        self._refused = False

    def seconds_since_failure(self) -> float:
        return monotonic() - self._failed_at

    def failed(self, problem: _Problem, *, refused: bool) -> None:
        """Log a new kind of failure at once, and a reminder every 30 s while it lasts."""
        now = monotonic()
        self._failed_at, self._refused = now, refused
        self._since = self._since or now
        if now - self._logged_at.get(problem.reason, -inf) < _REMINDER_SECONDS:
            return
        self._logged_at[problem.reason] = now
        message = RedisUnavailable(problem.reason, hint=problem.hint)
        _LOG.warning(
            f"{message.message}; trying again",
            code=message.code,
            hint=message.hint,
            address=self.address,
            seconds=round(now - self._since, 1),
        )

    def succeeded(self, *, after_failure: bool) -> None:
        """End the outage and log that.

        A Redis that refuses writes still serves reads. So a success ends a refusal only if the same command was refused
        before, or if no command has been refused for 30 s.
        """
        if self._since is None:
            return
        if self._refused and not after_failure and self.seconds_since_failure() < _QUIET_SECONDS:
            return
        seconds = self._failed_at - self._since
        self._since, self._logged_at = None, {}
        _LOG.info("Redis works again", address=self.address, seconds=round(seconds, 1))


_OUTAGE_LOGS: Final[dict[str, _OutageLog]] = {}
"""By address: all clients of a process share the log of one Redis."""


class RedisRetry(Retry):
    """Retry after a lost connection and after a refusal.

    Attempts are up to a second apart, with jitter.

    One object serves all connections of a client. ``on_attempt`` is called before every attempt. So a health check
    can distinguish a process that waits for Redis from one that is stuck.
    """

    def __init__(self, url: str, retries: int) -> None:
        super().__init__(
            ExponentialWithJitterBackoff(base=0.05, cap=1.0),
            retries,
            supported_errors=(RedisConnectionError, RedisTimeoutError),
        )
        self._outage = _OUTAGE_LOGS.setdefault(address_of(url), _OutageLog(address_of(url)))
        self.on_attempt: Callable[[], None] = lambda: None
        self._pause = 0.0 if 0 <= retries <= BRISK else _REFUSAL_PAUSE
        self._attempting = threading.local()

    @classmethod
    def of(cls, client: redis.Redis) -> Self | None:
        """Return the retries of a client that `open_client` made.

        None for any other client.
        """
        retry = client.get_retry()
        return retry if isinstance(retry, cls) else None

    def seconds_since_failure(self) -> float:
        """Return the seconds since Redis last failed this process.

        Infinity if it never did.
        """
        return self._outage.seconds_since_failure()

    def __deepcopy__(self, _: Any) -> Self:
        """Return the object itself: redis-py copies the retries for every connection."""
        return self

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Call *do* until it succeeds or the retries are used up.

        redis-py passes *fail*, which closes the connection. It also connects within the attempt of a command, with
        retries of its own. These are skipped, since 120 retries of 120 retries would take hours.
        """
        if getattr(self._attempting, "now", False):
            return do()
        failures = 0
        while True:
            try:
                result = self._attempt(do)
            except (RedisConnectionError, RedisTimeoutError) as error:
                failures += 1
                self._note(error)
                fail(error, failures) if with_failure_count else fail(error)
                if (is_retryable and not is_retryable(error)) or 0 <= self._retries < failures:
                    raise
                sleep(self._backoff.compute(failures))
            else:
                self._outage.succeeded(after_failure=failures > 0)
                return result

    def _attempt(self, do: Callable[[], T]) -> T:
        self.on_attempt()
        self._attempting.now = True
        try:
            return do()
        except (ResponseError, InvalidResponse) as error:
            problem = _refusal(error)
            if problem is None or isinstance(error, NoPermissionError):  # what the ACL forbids stays forbidden
                raise
            sleep(self._pause)
            raise _RedisRefused(problem) from None
        finally:
            self._attempting.now = False

    def _note(self, error: RedisError) -> None:
        problem = _problem_of(error)
        if problem is not None:
            self._outage.failed(problem, refused=isinstance(error, _RedisRefused))
