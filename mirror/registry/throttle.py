"""What a client asks before it asks a registry. The client knows no Redis: workers give it an implementation that they
share (`mirror.throttling.shared_throttle`), everybody else has `Unthrottled`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from mirror.errors import MirrorError

Action = Literal["manifests", "blobs"]
Account = tuple[str, str, str]
"""Whose pull limit: registry, credential and egress; the latter two as hashes."""
Wait = Callable[[float], None]
"""Waits for so many seconds, or raises to end the wait."""


class Verdict(Protocol):
    """Whether manifest reads were reserved; if not, the seconds to wait, and how old the last news is, in seconds.

    It is *undecided* where answers to others, which are under way, decide.
    """

    @property
    def granted(self) -> bool: ...
    @property
    def wait(self) -> float: ...
    @property
    def told_ago(self) -> float: ...
    @property
    def undecided(self) -> bool: ...


class PullLimits(Protocol):
    """The ledger of pull limits. A unit is one manifest read; its name is the client's."""

    def is_limited(self, registry: str) -> bool: ...
    def tell(
        self, account: Account, *, limit: int, window: float, remaining: int, elapsed: float, unit: str | None
    ) -> None:
        """What an answer told, whose request was sent *elapsed* seconds ago; its reserved *unit* is settled by that."""

    def reserve(self, account: Account, units: Sequence[str], *, asked: bool) -> Verdict:
        """Reserve all units or none; *asked* if a HEAD has just told what is left, or would have."""

    def spend(self, account: Account, unit: str) -> None:
        """The unit was spent, and the answer told nothing."""

    def give_back(self, account: Account, units: Sequence[str]) -> None: ...
    def used_up(self, account: Account) -> float | None:
        """The registry refused for its limit's sake: seconds until the window ends, None if no limit was ever told."""

    def cost(self, digest: str) -> int:
        """How many manifests the image was found to have, 1 if nobody knows."""

    def note_cost(self, digest: str, manifests: int) -> None: ...


class Throttle(PullLimits, Protocol):
    """Pull limits, slots and breakers."""

    def permit(self, registry: str) -> None:
        """Raises the error of a registry that is known not to answer."""

    def failed(self, registry: str, error: MirrorError) -> MirrorError:
        """It could not be reached, or answered 5xx to the last attempt: *error*, or what to raise in its place."""

    def answered(self, registry: str, *, served: bool) -> None:
        """It could be reached; *served* if it gave what was asked for."""

    def undecided(self, registry: str) -> None:
        """The request that was permitted told nothing about the registry; the next one will."""

    def note_headless(self, registry: str) -> None:
        """A GET of a manifest worked where a HEAD had told nothing: all clients shall do without HEADs for a while."""

    def is_headless(self, registry: str) -> bool:
        """Whether some client has noted that a while ago, as far as the last `permit` told."""

    def enter(self, registry: str, action: Action, wait: Wait) -> Callable[[bool], None]:
        """Take a slot for one request; what is answered gives it back, once, and is told whether the request succeeded.

        *wait* is called now and then, also with 0. Raises RegistryBusy where no slot comes.
        """

    def troubled(self, registry: str, action: Action) -> float | None:
        """A 429, a 503 or a timeout: ask for less at once. Seconds to back off where the registry named none."""


class _Granted:
    granted = True
    wait = 0.0
    told_ago = 0.0
    undecided = False


class Unthrottled:
    """Admits everything: for a process that asks a registry now and then."""

    def permit(self, registry: str) -> None: ...
    def failed(self, registry: str, error: MirrorError) -> MirrorError:
        return error

    def answered(self, registry: str, *, served: bool) -> None: ...
    def undecided(self, registry: str) -> None: ...
    def note_headless(self, registry: str) -> None: ...
    def is_headless(self, registry: str) -> bool:
        return False

    def enter(self, registry: str, action: Action, wait: Wait) -> Callable[[bool], None]:
        return lambda _: None

    def troubled(self, registry: str, action: Action) -> float | None:
        return None

    def is_limited(self, registry: str) -> bool:
        return False

    def tell(
        self, account: Account, *, limit: int, window: float, remaining: int, elapsed: float, unit: str | None
    ) -> None: ...
    def reserve(self, account: Account, units: Sequence[str], *, asked: bool) -> Verdict:
        return _Granted()

    def spend(self, account: Account, unit: str) -> None: ...
    def give_back(self, account: Account, units: Sequence[str]) -> None: ...
    def used_up(self, account: Account) -> float | None:
        return None

    def cost(self, digest: str) -> int:
        return 1

    def note_cost(self, digest: str, manifests: int) -> None: ...
