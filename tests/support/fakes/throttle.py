"""A throttle that limits nothing, for registry clients that share nothing with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirror.errors import MirrorError
from mirror.registry.throttle import Account, Action, QuotaGrant, Sleep, Throttle


class ClosedBreaker:
    """Permits every request and records nothing."""

    def permit(self, registry: str) -> None: ...
    def failed(self, registry: str, error: MirrorError) -> MirrorError:
        return error

    def answered(self, registry: str, *, served: bool) -> None: ...
    def undecided(self, registry: str) -> None: ...
    def note_headless(self, registry: str) -> None: ...
    def is_headless(self, registry: str) -> bool:
        return False


class UnlimitedSlots:
    """Has a slot for every request."""

    def enter(self, registry: str, action: Action, wait: Sleep) -> Callable[[bool], None]:
        return lambda _: None

    def troubled(self, registry: str, action: Action) -> float | None:
        return None

    def close(self) -> None: ...


class _Granted:
    granted = True
    wait = 0.0
    told_ago = 0.0
    undecided = False


class UnlimitedQuota:
    """Grants every manifest read and records nothing."""

    def is_limited(self, registry: str) -> bool:
        return False

    def tell(
        self, account: Account, *, limit: int, window: float, remaining: int, elapsed: float, unit: str | None
    ) -> None: ...
    def reserve(self, account: Account, units: Sequence[str], *, asked: bool) -> QuotaGrant:
        return _Granted()

    def spend(self, account: Account, unit: str) -> None: ...
    def give_back(self, account: Account, units: Sequence[str]) -> None: ...
    def used_up(self, account: Account) -> float | None:
        return None

    def cost(self, digest: str) -> int:
        return 1

    def note_cost(self, digest: str, manifests: int) -> None: ...


UNTHROTTLED = Throttle(ClosedBreaker(), UnlimitedSlots(), UnlimitedQuota())
