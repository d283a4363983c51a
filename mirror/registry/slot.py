"""A slot for one request: left once, and told how the request went."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from mirror.errors import RateLimited, SourceTooSlow, SourceUnreachable
from mirror.registry.response_errors import ServerFailed
from mirror.registry.throttle import Action, Throttle, Wait


class Slot:
    """Taken when it is made; given back at the end of a `with` block, or by `leave`, which may be called again."""

    def __init__(self, admission: Throttle, registry: str, action: Action, wait: Wait) -> None:
        self._admission = admission
        self._registry = registry
        self._action = action
        self._lock = threading.Lock()
        self._leave = admission.enter(registry, action, wait)
        self._left = False

    def leave(self, *, succeeded: bool) -> None:
        with self._lock:
            if self._left:
                return
            self._left = True
        self._leave(succeeded)

    def failed(self, error: BaseException) -> None:
        """Leave, and slow everybody down if the registry is overloaded.

        A 429 that does not say how long to wait is given a time: RateLimited's ``retry_after``.
        """
        if not self._left and _is_overload(error):
            backoff = self._admission.troubled(self._registry, self._action)
            if isinstance(error, RateLimited) and not error.asked and backoff is not None:
                error.retry_after = backoff
        self.leave(succeeded=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.leave(succeeded=True)
        else:
            self.failed(error)


def _is_overload(error: BaseException) -> bool:
    if isinstance(error, ServerFailed):
        return error.overloaded
    return isinstance(error, RateLimited | SourceTooSlow) or (isinstance(error, SourceUnreachable) and error.timed_out)
