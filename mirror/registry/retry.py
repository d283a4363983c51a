"""Asking again: what may pass in a moment is tried up to four times; what takes longer is the caller's to wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

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
    ManifestUnknown,
    MirrorError,
    RateLimited,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
    Unauthorized,
)
from mirror.registry.response_errors import ServerFailed
from mirror.registry.throttle import Throttle, Wait

ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds that are waited here; a registry that asks for more parks the task."""
RETRY_SECONDS: Final = 30.0
"""After the first failure, in which another attempt may begin: attempts that take long are no matter of a moment."""
_JITTER: Final = wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE)
_REACHED: Final = (Unauthorized, Denied, ManifestUnknown, BlobUnknown, RateLimited)
"""Refusals: they show that the registry answers."""
_INCONCLUSIVE: Final = (
    AddressNotAllowed,
    AnswerTooLarge,
    AnswerTruncated,
    Denied,
    DigestMismatch,
    ManifestUnknown,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
)
"""Failures of a shortcut. What is left are demands for a login and for patience, which hold for every request."""
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")
P = ParamSpec("P")


class Retries:
    """Makes requests under the registry's breaker, and makes them again over what may pass.

    That is a lost connection, a 5xx, and, once, a 429 that asks for at most 5 s. A request that ran out of its deadline
    is not made again: it occupied its task's slot for a minute, and four of them would for four.
    """

    def __init__(self, admission: Throttle, sleep: Wait) -> None:
        self._admission = admission
        self._sleep = sleep

    def __call__(self, registry: str, request: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Raises what the last attempt did; RegistryDown in its place where the registry is known to work."""
        self._admission.permit(registry)
        try:
            result = self._tried(_MayPass(), request, *args, **named)
        except (SourceUnreachable, SourceTooSlow, ServerFailed) as error:
            raise self._admission.failed(registry, error) from None
        except _REACHED:
            self._admission.answered(registry, served=False)
            raise
        except MirrorError:
            self._admission.undecided(registry)
            raise
        self._admission.answered(registry, served=True)
        return result

    def shortcut(self, registry: str, request: Callable[P, T | None], *args: P.args, **named: P.kwargs) -> T | None:
        """Make a request that only saves others: None where it failed, or told nothing. Only over a 429 is it repeated.

        Raises what would hold for the other requests as well: a demand for a login, or for patience. A failure does
        not count for the breaker, since the request that is made instead decides. But one that ran out of its deadline
        does, and is raised: its task has had its slot for a minute.
        """
        self._admission.permit(registry)
        try:
            result: T | None = self._tried(_MayPass(only_limits=True), request, *args, **named)
        except _INCONCLUSIVE as error:
            if _ran_out_of_time(error):
                raise self._admission.failed(registry, error) from None
            result = None
        except RateLimited as error:
            if error.answered == 429:
                self._admission.answered(registry, served=False)
                raise
            result = None
        except _REACHED:
            self._admission.answered(registry, served=False)
            raise
        except MirrorError:
            self._admission.undecided(registry)
            raise
        if result is None:
            self._admission.undecided(registry)
        else:
            self._admission.answered(registry, served=True)
        return result

    def _tried(self, may_pass: _MayPass, request: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Most requests need one attempt, and tenacity's accounts are a tenth of the CPU of a HEAD: it is told of the
        first one only if that failed.
        """
        try:
            return request(*args, **named)
        except MirrorError as error:
            first = [error]

        def attempt(*args: P.args, **named: P.kwargs) -> T:
            if first:
                raise first.pop()
            return request(*args, **named)

        retrying = Retrying(
            retry=may_pass,
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(RETRY_SECONDS),
            wait=_pause,
            sleep=self._sleep,
            before_sleep=_note,
            reraise=True,
        )
        return retrying(attempt, *args, **named)


class _MayPass(retry_base):
    """Whether the same request may succeed in a moment; used for one request.

    With *only_limits* that is a 429 alone.
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
        return passing and not _ran_out_of_time(error)


def _ran_out_of_time(error: BaseException | None) -> bool:
    return isinstance(error, SourceUnreachable | SourceTooSlow) and error.out_of_time


def _pause(state: RetryCallState) -> float:
    """What the registry asks for, else full jitter."""
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, RateLimited) else _JITTER(state)


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, MirrorError):
        _LOG.info(
            "trying the registry again",
            source=str(state.args[0]),
            attempt=state.attempt_number,
            code=error.code,
            reason=error.message,
        )
