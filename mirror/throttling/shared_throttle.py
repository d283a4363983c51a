"""What all workers share to be gentle to registries.

That is the limiter, the circuit breakers and the pull quota.

None of them needs Redis to go on. With Redis away, requests are sent as before, and no copy fails for it.
"""

from __future__ import annotations

from mirror.throttling.circuit_breaker import CircuitBreaker
from mirror.throttling.limiter import Limiter
from mirror.throttling.pull_quota import PullQuota


class SharedThrottle:
    """The one object that `mirror.registry.throttle` asks for.

    Its functions are those of its three parts.
    """

    def __init__(self, limiter: Limiter, breaker: CircuitBreaker, quota: PullQuota) -> None:
        self.enter = limiter.enter
        self.troubled = limiter.troubled
        self.close = limiter.close

        self.permit = breaker.permit
        self.failed = breaker.failed
        self.answered = breaker.answered
        self.undecided = breaker.undecided
        self.note_headless = breaker.note_headless
        self.is_headless = breaker.is_headless

        self.is_limited = quota.is_limited
        self.tell = quota.tell
        self.reserve = quota.reserve
        self.spend = quota.spend
        self.give_back = quota.give_back
        self.used_up = quota.used_up
        self.cost = quota.cost
        self.note_cost = quota.note_cost
