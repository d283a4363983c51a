"""Repeat requests.

A short failure is retried here, up to four attempts. A longer wait is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog
from tenacity import (
    RetryCallState,
    Retrying,
    retry_base,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from mirror.errors import (
    AddressNotAllowed,
    AnswerTooLarge,
    AnswerTruncated,
    BlobUnknown,
    Denied,
    DigestMismatch,
    ListingDenied,
    ListingUnsupported,
    ManifestUnknown,
    MediaTypeUnsupported,
    MirrorError,
    RateLimited,
    RepositoryUnknown,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
    Unauthorized,
)
from mirror.http.failures import ServerFailed
from mirror.registry.throttle import Breaker, Sleep

ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds that are waited here. If a registry asks for more, the task is parked."""
RETRY_SECONDS: Final = 30.0
"""Seconds after the first failure in which another attempt may start. Slow attempts show no short failure."""
_JITTER: Final = wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE)
_REFUSALS: Final = (
    Unauthorized,
    Denied,
    ManifestUnknown,
    BlobUnknown,
    RepositoryUnknown,
    ListingDenied,
    ListingUnsupported,
    RateLimited,
)
"""These show that the registry works."""
_INCONCLUSIVE: Final = (
    AddressNotAllowed,
    AnswerTooLarge,
    AnswerTruncated,
    Denied,
    DigestMismatch,
    ManifestUnknown,
    MediaTypeUnsupported,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
)
"""Failures of an optional request that are not raised. The others demand a login or a wait from every request."""
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


class _Asked(Protocol):
    """What is asked for, and the registry whose breaker counts. Its text is for the log."""

    @property
    def registry(self) -> str: ...


class Retries:
    """Runs requests under the circuit breaker, and retries failures that may pass.

    These are a lost connection, a 5xx, and, once, a 429 that asks for at most 5 s. A request that exceeded its deadline
    is not retried: it has occupied its task's slot for a minute, and four attempts would occupy it for four. Its task
    is parked if the registry is known to work, and fails otherwise.
    """

    def __init__(self, breaker: Breaker, sleep: Sleep) -> None:
        self._breaker = breaker
        self._sleep = sleep

    def run(self, source: _Asked, request: Callable[[], T]) -> T:
        """Run *request* and return its result.

        Raises the last attempt's error, or RegistryDown or RegistryFailing if the registry is known to work.
        """
        registry = source.registry
        self._breaker.permit(registry)
        try:
            result = self._retried(_MayPass(), source, request)
        except (SourceUnreachable, SourceTooSlow, ServerFailed) as error:
            raise self._breaker.failed(registry, error) from None
        except _REFUSALS:
            self._breaker.answered(registry, served=False)
            raise
        except MirrorError:
            self._breaker.undecided(registry)
            raise
        self._breaker.answered(registry, served=True)
        return result

    def run_optional(self, source: _Asked, request: Callable[[], T | None]) -> T | None:
        """Run a request that only saves others.

        Returns None if it failed. Only a 429 is retried. Raises what every other request would raise too: a demand for
        a login or for a wait. A failure does not count for the breaker, because the request that follows decides. An
        exceeded deadline counts, and is raised: the task has occupied its slot for a minute.
        """
        registry = source.registry
        self._breaker.permit(registry)
        try:
            result: T | None = self._retried(_MayPass(only_limits=True), source, request)
        except _INCONCLUSIVE as error:
            if _exceeded_deadline(error):
                raise self._breaker.failed(registry, error) from None
            result = None
        except RateLimited as error:
            if error.answered == 429:
                self._breaker.answered(registry, served=False)
                raise
            result = None
        except _REFUSALS:
            self._breaker.answered(registry, served=False)
            raise
        except MirrorError:
            self._breaker.undecided(registry)
            raise
        if result is None:
            self._breaker.undecided(registry)
        else:
            self._breaker.answered(registry, served=True)
        return result

    def _retried(self, may_pass: _MayPass, source: _Asked, request: Callable[[], T]) -> T:
        """Run *request* under tenacity, except its first attempt, which is run directly.

        Most requests need one attempt, and tenacity costs a tenth of the CPU of a HEAD. If the first attempt fails, its
        error is handed to tenacity as the result of attempt 1.
        """
        try:
            return request()
        except MirrorError as error:
            first = [error]

        def attempt() -> T:
            if first:
                raise first.pop()
            return request()

        retrying = Retrying(
            retry=may_pass,
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(RETRY_SECONDS),
            wait=_pause,
            sleep=self._sleep,
            before_sleep=partial(_log_retry, source),
            reraise=True,
        )
        return retrying(attempt)


class _MayPass(retry_base):
    """Whether the same request may succeed in a moment. Made anew for each request.

    With *only_limits*, only a 429 counts.
    """

    def __init__(self, *, only_limits: bool = False) -> None:
        self._only_limits = only_limits
        self._has_waited = False

    def __call__(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if self._only_limits and not (isinstance(error, RateLimited) and error.answered == 429):
            return False
        if isinstance(error, RateLimited):
            may, self._has_waited = not self._has_waited and error.asked and error.retry_after <= LONGEST_PAUSE, True
            return may
        passing = isinstance(error, SourceUnreachable | SourceTooSlow | ServerFailed | AnswerTruncated)
        return passing and not _exceeded_deadline(error)


def _exceeded_deadline(error: BaseException | None) -> bool:
    return isinstance(error, SourceUnreachable | SourceTooSlow) and error.out_of_time


def _pause(state: RetryCallState) -> float:
    """Return the seconds that the registry asks for, else full jitter."""
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, RateLimited) else _JITTER(state)


def _log_retry(source: _Asked, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, MirrorError):
        _LOG.info(
            "trying the registry again",
            source=str(source),
            attempt=state.attempt_number,
            code=error.code,
            reason=error.message,
        )
