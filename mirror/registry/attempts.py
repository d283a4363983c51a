"""Asking again: what may pass in a moment is tried up to four times; what takes longer is the caller's to wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_base, stop_after_attempt, wait_random_exponential

from mirror.errors import (
    AnswerTruncated,
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    RateLimited,
    SourceUnreachable,
    Unauthorized,
)
from mirror.registry.admission import Admission, Wait
from mirror.registry.statuses import ServerFailed

ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds that are waited here; a registry that asks for more parks the task."""
_JITTER: Final = wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE)
_REACHED: Final = (Unauthorized, Denied, ManifestUnknown, BlobUnknown, RateLimited)
"""Refusals: they show that the registry answers."""
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")
P = ParamSpec("P")


class Attempts:
    """Makes requests under the registry's breaker, and makes them again over what may pass.

    That is a lost connection, a 5xx, and, once, a 429 that asks for at most 5 s.
    """

    def __init__(self, admission: Admission, sleep: Wait) -> None:
        self._admission = admission
        self._sleep = sleep

    def __call__(self, registry: str, request: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Raises what the last attempt did; RegistryDown in its place where the registry is known to work."""
        self._admission.permit(registry)
        try:
            result = self._tried(request, *args, **named)
        except (SourceUnreachable, ServerFailed) as error:
            raise self._admission.failed(registry, error) from None
        except _REACHED:
            self._admission.answered(registry, served=False)
            raise
        self._admission.answered(registry, served=True)
        return result

    def _tried(self, request: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
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
            retry=_MayPass(),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_pause,
            sleep=self._sleep,
            before_sleep=_note,
            reraise=True,
        )
        return retrying(attempt, *args, **named)


class _MayPass(retry_base):
    """Whether the same request may succeed in a moment; used for one request."""

    def __init__(self) -> None:
        self._has_waited = False

    def __call__(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RateLimited):
            may, self._has_waited = not self._has_waited and error.asked and error.retry_after <= LONGEST_PAUSE, True
            return may
        return isinstance(error, SourceUnreachable | ServerFailed | AnswerTruncated)


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
