"""Retries of everything that is sent to Redis, by our own code and by RQ, and the log lines that say so.

All of redis-py's ways to Redis go through one `Retry` of their connection: commands, pipelines, transactions, pub/sub
and the connection itself. So this is the one place where an answer that refuses becomes an error that is waited out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from time import monotonic, sleep
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import structlog
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from mirror.errors import RedisUnavailable
from mirror.redis.failures import RedisRefuses, Trouble, is_passing, refusal, trouble_of

PATIENT: Final = 120
"""Retries of a worker's task or a scheduler, about two minutes: Redis can restart and load its data in that time."""
BRISK: Final = 2
"""Retries of the API, which answers 503 rather than let its client hang."""
FOREVER: Final = -1
"""Retries of a worker that waits for work: without Redis there is none."""
_REMINDER_SECONDS: Final = 30.0
_REFUSAL_PAUSE: Final = 0.1
"""Seconds after a refusal: RQ repeats a watched transaction at once and without a limit (Worker.handle_job_success)."""
_QUIET_SECONDS: Final = 30.0
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


class RedisOutage:
    """The troubles with one Redis as this process has met them, and their log lines.

    Its attributes are set without a lock: two threads may at worst log the same trouble twice.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._since: float | None = None
        self._failed_at = -inf
        self._told_at: dict[str, float] = {}
        self._refused = False

    def seconds_since_failure(self) -> float:
        return monotonic() - self._failed_at

    def failed(self, trouble: Trouble, *, refused: bool) -> None:
        """Log every kind of failure at once, and a reminder while it lasts."""
        now = monotonic()
        self._failed_at, self._refused = now, refused
        self._since = self._since or now
        if now - self._told_at.get(trouble.reason, -inf) < _REMINDER_SECONDS:
            return
        self._told_at[trouble.reason] = now
        message = RedisUnavailable(trouble.reason, hint=trouble.hint)
        _LOG.warning(
            f"{message.message}; trying again",
            code=message.code,
            hint=message.hint,
            address=self.address,
            seconds=round(now - self._since, 1),
        )

    def succeeded(self, *, after_failure: bool) -> None:
        """End the outage.

        A Redis that refuses writes still serves reads. So a success ends a refusal only if the same command was refused
        before, or if nothing has been refused for a while.
        """
        if self._since is None:
            return
        if self._refused and not after_failure and self.seconds_since_failure() < _QUIET_SECONDS:
            return
        seconds = self._failed_at - self._since
        self._since, self._told_at = None, {}
        _LOG.info("Redis works again", address=self.address, seconds=round(seconds, 1))


_OUTAGES: Final[dict[str, RedisOutage]] = {}
"""By address: all clients of a process share the log lines of one Redis."""


class RedisRetry(Retry):
    """Retries a lost connection and a refusal alike, with jitter, up to a second apart.

    One object serves all connections of a client. ``on_attempt`` is called before every attempt, so that a process
    that waits for Redis can be told from one that is stuck.
    """

    def __init__(self, url: str, retries: int) -> None:
        super().__init__(
            ExponentialWithJitterBackoff(base=0.05, cap=1.0),
            retries,
            supported_errors=(RedisConnectionError, RedisTimeoutError),
        )
        self.outage = _OUTAGES.setdefault(address_of(url), RedisOutage(address_of(url)))
        self.on_attempt: Callable[[], None] = _nothing
        self._pause = 0.0 if 0 <= retries <= BRISK else _REFUSAL_PAUSE
        self._attempting = threading.local()

    def __deepcopy__(self, _: Any) -> Self:
        """Share this object where redis-py copies the retries for every connection."""
        return self

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Call *do* until it succeeds or the retries are used up. *fail* is redis-py's: it closes the connection.

        redis-py connects within the attempt of a command, with retries of its own. Those are not made: 120 retries of
        120 retries would take hours.
        """
        if getattr(self._attempting, "now", False):
            return do()
        failures = 0
        while True:
            try:
                found = self._attempt(do)
            except (RedisConnectionError, RedisTimeoutError) as error:
                failures += 1
                self._note(error)
                fail(error, failures) if with_failure_count else fail(error)
                if (is_retryable and not is_retryable(error)) or 0 <= self._retries < failures:
                    raise
                sleep(self._backoff.compute(failures))
            else:
                self.outage.succeeded(after_failure=failures > 0)
                return found

    def _attempt(self, do: Callable[[], T]) -> T:
        self.on_attempt()
        self._attempting.now = True
        try:
            return do()
        except (ResponseError, InvalidResponse) as error:
            trouble = refusal(error)
            if trouble is None or not is_passing(error):
                raise
            sleep(self._pause)
            raise RedisRefuses(trouble) from None
        finally:
            self._attempting.now = False

    def _note(self, error: RedisError) -> None:
        trouble = trouble_of(error)
        if trouble is not None:
            self.outage.failed(trouble, refused=isinstance(error, RedisRefuses))


def address_of(url: str) -> str:
    """``host:port``, or the path of a socket; never the user, the password or the query."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or "localhost"
    return f"[{host}]:{parts.port or 6379}" if ":" in host else f"{host}:{parts.port or 6379}"


def _nothing() -> None:
    return None
