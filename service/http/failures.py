"""Every exception as what an answer says of it, before it is written as problem details or in the OCI form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import structlog
from werkzeug.exceptions import HTTPException

from mirror.errors import BlobBeingDeleted, InternalError, MirrorError, RateLimited, TagBusy, Unavailable
from service.http.request_errors import FieldProblem, RequestError, RequestInvalid

_LOG = structlog.get_logger(__name__)
_CHANGING_SECONDS: Final = 2
"""How soon a tag or blob that is being changed is worth another try."""
_AWAY_SECONDS: Final = 5
"""How soon a store that is away, or an index that is being rebuilt, is worth another try."""


@dataclass(frozen=True, slots=True)
class Failure:
    """``code`` and ``hint`` are stable, ``message`` is for this one case."""

    status: int
    code: str
    message: str
    hint: str
    headers: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[FieldProblem, ...] = ()

    @classmethod
    def of(cls, error: Exception) -> Self:
        """What may be said of *error*: of one that nobody expected only that it happened; the log has the rest."""
        if isinstance(error, MirrorError):
            return cls(error.status, error.code, error.message, error.hint, _retry_after(error))
        if isinstance(error, RequestError):
            problems = error.problems if isinstance(error, RequestInvalid) else ()
            return cls(error.status, error.code, error.message, error.hint, error.headers, problems)
        if isinstance(error, HTTPException) and error.code is not None and error.code < 500:
            unreadable = ("REQUEST_MALFORMED", f"The request cannot be read: {error.name}", _READ_THE_DOCS)
            allowed = dict(error.get_headers()).get("Allow")
            return cls(error.code, *_ROUTING.get(error.code, unreadable), {"Allow": allowed} if allowed else {})
        _LOG.error("a request failed in a way nobody expected", exc_info=error)
        unknown = InternalError()
        return cls(unknown.status, unknown.code, unknown.message, unknown.hint)


_READ_THE_DOCS: Final = "/docs describes every request."
_ROUTING: Final[Mapping[int, tuple[str, str, str]]] = {
    404: ("NOT_FOUND", "There is nothing at this path", _READ_THE_DOCS),
    405: ("METHOD_NOT_ALLOWED", "This path does not know this method", "The header 'Allow' names those it knows."),
    413: ("REQUEST_TOO_LARGE", "The body is larger than 64 KiB", "No request of this API needs so many bytes."),
}


def codes_of_requests() -> list[tuple[int, str, str]]:
    """Status, code and hint of everything that is wrong with a request itself: the page of error codes shows them."""
    own = [(error.status, error.code, error.hint) for error in RequestError.__subclasses__()]
    return sorted([*own, *((status, code, hint) for status, (code, _, hint) in _ROUTING.items())])


def _retry_after(error: MirrorError) -> dict[str, str]:
    if isinstance(error, RateLimited):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, TagBusy | BlobBeingDeleted):
        return {"Retry-After": str(_CHANGING_SECONDS)}
    if isinstance(error, Unavailable) and error.retryable:
        return {"Retry-After": str(_AWAY_SECONDS)}
    return {}
