"""The root of all errors, the families that several modules share, and the error for a fault of our own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

LONGEST_REST: Final = 24 * 3600.0
"""The longest that a task rests before it is tried again, in seconds. A registry may ask for any time."""


class MirrorError(Exception):
    """Base of all errors that a user can see: a code, one sentence and a hint.

    A message never contains a secret, a query string or the text of a vendor's exception: those print presigned URLs.
    """

    code: ClassVar[str]
    """Stable: scripts may rely on it. It is the code of the OCI distribution spec where the spec has one."""
    hint: str
    """What the reader should do next."""
    retryable: ClassVar[bool] = False
    """Whether the same request can succeed later although nothing was changed."""
    status: ClassVar[int] = 500
    """The HTTP status of a response that reports this error."""
    http_retry_after: int | None = None
    """Seconds for the header Retry-After of such a response. None sends no header."""
    waits_for: ClassVar[str | None] = None
    """The `reason` in a job's `waiting_for`. A task waits for such an error to pass. None fails the task."""
    retry_after: float = 10.0
    """Seconds until a waiting task is tried again, at most `LONGEST_REST`."""
    patience: ClassVar[float] = 24 * 3600.0
    """Seconds since the first such error of a task, after which the task fails with it."""
    registry: str | None = None
    """The registry that the error is about, if it is about one."""
    where: tuple[str | int, ...] = ()
    """The keys that lead to the cause in the body of the request, if it is known."""
    reason: str
    """The cause without its subject, such as "its name cannot be resolved". By default the whole message."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        reason: str | None = None,
        registry: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = message if reason is None else reason
        self.registry = registry
        if hint is not None:
            self.hint = hint
        if retry_after is not None:
            self.retry_after = retry_after


class NotHeld(MirrorError):
    """The mirror does not have what was asked for."""

    status = 404


class Conflict(MirrorError):
    """The state of the target does not allow the request."""

    status = 409


class Unavailable(MirrorError):
    """A part of the mirror itself does not work at the moment."""

    retryable = True
    status = 503
    http_retry_after: int | None = 5


class InternalError(MirrorError):
    """A bug in the mirror. Only the log has the traceback, because a traceback may contain a secret."""

    code = "INTERNAL_ERROR"
    hint = "Search the logs for the id of the request, job or task, and report what they say."

    def __init__(self) -> None:
        super().__init__("An unexpected error occurred in the mirror")


def listed(names: Iterable[str], most: int = 20) -> str:
    """List *names* in a message: the first of them, each with a bounded length, and how many more there are."""
    found = list(names)
    shown = ", ".join(quoted(name)[1:-1] for name in found[:most])
    return f"{shown} and {len(found) - most} more" if len(found) > most else shown


def quoted(text: str, limit: int = 160) -> str:
    """Quote *text* for a message: control characters are escaped, and the length is bounded."""
    shown = text if len(text) <= limit else text[:limit] + "…"
    return repr(shown)
