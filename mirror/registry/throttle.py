"""What a client asks for before a request to a registry, and reports after it.

These are ports: the client knows no Redis. `mirror.throttling` implements them for all workers together, with
`CircuitBreaker`, `Limiter` and `PullQuota`. `mirror.wiring` joins those three to a `Throttle`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from mirror.errors import MirrorError, RateLimited, SourceTooSlow, SourceUnreachable
from mirror.http.failures import ServerFailed

Action = Literal["manifests", "blobs", "lists"]
Account = tuple[str, str, str]
"""Who is counted by a pull limit: registry, credential and egress address. The last two are hashes."""
Sleep = Callable[[float], None]
"""Waits for so many seconds, or raises to end the wait."""


class Breaker(Protocol):
    """A circuit breaker for each registry.

    It also shares which registries have HEADs of no use.
    """

    def permit(self, registry: str) -> None:
        """Raise the error of a registry that is known to be down or failing."""

    def failed(self, registry: str, error: MirrorError) -> MirrorError:
        """Record that the registry was unreachable or that the last attempt got a 5xx.

        Returns the error to raise: *error*, or one to wait for.
        """

    def answered(self, registry: str, *, served: bool) -> None:
        """Record that the registry was reached.

        It *served* if it returned what was asked for.
        """

    def undecided(self, registry: str) -> None:
        """Record that a permitted request said nothing about the registry.

        The breaker permits another one to decide.
        """

    def note_headless(self, registry: str) -> None:
        """Record that a GET of a manifest worked after a HEAD of it did not.

        All clients skip HEADs for a while.
        """

    def is_headless(self, registry: str) -> bool:
        """Whether a client recorded that lately. Known from the last `permit`."""


class ConcurrencyLimiter(Protocol):
    """The number of requests that a registry is sent at once."""

    def enter(self, registry: str, action: Action, wait: Sleep) -> Callable[[bool], None]:
        """Take a slot for one request.

        Returns a function that gives the slot back. Call it once, with whether the request succeeded. *wait* is called
        now and then, also with 0. Raises RegistryBusy if no slot becomes free.
        """

    def troubled(self, registry: str, action: Action) -> float | None:
        """Send fewer requests at once, after a 429, a 503 or a timeout.

        Returns the seconds to wait if the registry named none.
        """

    def close(self) -> None:
        """Give back what this process holds of the shared limits."""


class QuotaGrant(Protocol):
    """Whether manifest reads were reserved. If not, *wait* is in seconds.

    *told_ago* is the age of the registry's last statement in seconds. *undecided* means that the responses to other
    pending requests decide.
    """

    @property
    def granted(self) -> bool: ...
    @property
    def wait(self) -> float: ...
    @property
    def told_ago(self) -> float: ...
    @property
    def undecided(self) -> bool: ...


class QuotaLedger(Protocol):
    """The ledger of pull limits.

    A unit is one manifest read. The client chooses its name.
    """

    def is_limited(self, registry: str) -> bool: ...
    def tell(
        self, account: Account, *, limit: int, window: float, remaining: int, elapsed: float, unit: str | None
    ) -> None:
        """Record the limit that a response stated.

        Its request was sent *elapsed* seconds ago. The *unit* that was reserved for the request is thereby settled.
        """

    def reserve(self, account: Account, units: Sequence[str], *, asked: bool) -> QuotaGrant:
        """Reserve all units or none.

        *asked* means that a HEAD was just sent to learn what remains.
        """

    def spend(self, account: Account, unit: str) -> None:
        """Record that the unit was spent, by a response that stated no limit."""

    def give_back(self, account: Account, units: Sequence[str]) -> None: ...
    def used_up(self, account: Account) -> float | None:
        """Record that the registry refused a read because of its limit.

        Returns the seconds until the window ends, None if no limit was ever stated.
        """

    def cost(self, digest: str) -> int:
        """Return how many manifests the image is known to have, 1 if unknown."""

    def note_cost(self, digest: str, manifests: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Throttle:
    """What keeps a client gentle to registries. Usually shared with other clients."""

    breaker: Breaker
    limiter: ConcurrencyLimiter
    quota: QuotaLedger


class RequestSlot:
    """A slot for one request, taken by the constructor.

    A `with` block gives it back, or `release`, or `failed`.
    """

    def __init__(self, limiter: ConcurrencyLimiter, registry: str, action: Action, sleep: Sleep) -> None:
        self._limiter = limiter
        self._registry = registry
        self._action = action
        self._lock = threading.Lock()
        self._leave = limiter.enter(registry, action, sleep)
        self._is_released = False

    def release(self, *, succeeded: bool) -> None:
        """Give the slot back. Does nothing the second time."""
        with self._lock:
            if self._is_released:
                return
            self._is_released = True
        self._leave(succeeded)

    def failed(self, error: BaseException) -> None:
        """Give the slot back, and slow down all clients if the registry is overloaded.

        For a 429 that names no time to wait, the `retry_after` of *error* is set.
        """
        if not self._is_released and _is_overload(error):
            backoff = self._limiter.troubled(self._registry, self._action)
            if isinstance(error, RateLimited) and not error.asked and backoff is not None:
                error.retry_after = backoff
        self.release(succeeded=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.release(succeeded=True)
        else:
            self.failed(error)


def _is_overload(error: BaseException) -> bool:
    if isinstance(error, ServerFailed):
        return error.overloaded
    return isinstance(error, RateLimited | SourceTooSlow) or (isinstance(error, SourceUnreachable) and error.timed_out)
