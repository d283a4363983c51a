"""Throttling goes on without Redis.

It exists to be gentle to registries, so no copy fails because Redis is away. A method with the decorator
`without_redis` then returns what permits the request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from time import monotonic
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

import structlog

from mirror.background import record_fault
from mirror.errors import RedisUnavailable

AWAY_SECONDS: Final = 1.0
"""Seconds for which Redis is not asked again after it was away: each attempt costs the request time."""
_LOG = structlog.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")


class Tolerance:
    """Remembers that Redis is away, for all objects that share it."""

    def __init__(self) -> None:
        self._away_until = 0.0

    def ask(self, question: Callable[[], T], default: D) -> T | D:
        """Return what *question* returns.

        Return *default* if it fails or Redis was away a moment ago.
        """
        if monotonic() < self._away_until:
            return default
        try:
            return question()
        except RedisUnavailable:
            self._away_until = monotonic() + AWAY_SECONDS
            _LOG.warning("Redis is away, so requests to registries are throttled without it")
            return default
        except Exception as error:  # noqa: BLE001 - an unusable record of a breaker or a quota fails no copy
            record_fault("throttling", error)
            return default


class _Tolerant(Protocol):
    @property
    def tolerance(self) -> Tolerance: ...


S = TypeVar("S", bound=_Tolerant)


def without_redis(*, returns: D) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T | D]]:
    """Make a method return *returns* if Redis is away or fails.

    Its class must have a `tolerance`.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T | D]:
        @wraps(method)
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T | D:
            return self.tolerance.ask(partial(method, self, *args, **kwargs), returns)

        return call

    return decorate
