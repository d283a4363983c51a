"""Throttling without Redis, tested without one."""

from __future__ import annotations

import pytest

from mirror.background import fault_counts
from mirror.errors import RedisUnavailable
from mirror.throttling import tolerance as tolerance_module
from mirror.throttling.tolerance import Tolerance, without_redis


class Counter:
    """Something in Redis that counts, and fails on demand."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.error: Exception | None = None
        self.asked = 0

    @without_redis(returns=-1)
    def count(self, step: int, *, twice: bool = False) -> int:
        """Count up."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        return step * 2 if twice else step


def test_with_redis_a_method_returns_its_own_result() -> None:
    counter = Counter(Tolerance())
    assert (counter.count(3), counter.count(3, twice=True)) == (3, 6)
    assert (Counter.count.__name__, Counter.count.__doc__) == ("count", "Count up.")


def test_without_redis_a_method_returns_its_default_and_redis_is_left_alone() -> None:
    tolerance = Tolerance()
    counter, other = Counter(tolerance), Counter(tolerance)
    counter.error = RedisUnavailable("does not answer")
    assert [counter.count(3), counter.count(3), other.count(3)] == [-1, -1, -1]
    assert (counter.asked, other.asked) == (1, 0)


def test_redis_is_asked_again_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance_module, "AWAY_SECONDS", 0.0)
    counter = Counter(Tolerance())
    counter.error = RedisUnavailable("does not answer")
    assert counter.count(3) == -1
    counter.error = None
    assert counter.count(3) == 3


def test_another_error_is_noted_and_the_next_call_asks_redis_again() -> None:
    counter = Counter(Tolerance())
    counter.error = ValueError("a record of the wrong type")
    before = fault_counts().get("throttling", 0)
    assert [counter.count(3), counter.count(3)] == [-1, -1]
    assert (counter.asked, fault_counts()["throttling"]) == (2, before + 2)
