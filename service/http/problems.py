"""Failures of requests, and how an answer shows them: problem details (RFC 9457), everywhere but under ``/v2``.

A `RequestError` is wrong with the request itself. What a request asks for fails with a `mirror.errors.MirrorError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Self
from urllib.parse import quote

import structlog
from flask import Response, json, request
from marshmallow import Schema, fields
from werkzeug.exceptions import HTTPException

from mirror.errors import InternalError, MirrorError, SyncFileInvalid, quoted
from mirror.records.field_messages import pointer_of
from service.http import request_id

MEDIA_TYPE: Final = "application/problem+json"
_CANNOT_BE_USED: Final = "The request has fields or parameters that cannot be used"
_SHOWN_NAME: Final = 64
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of the body (*pointer*, RFC 6901) or one query parameter (*parameter*).

    A body that is a text has a *line* and a *column* there too.
    """

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    line: int | None = None
    column: int | None = None


class RequestError(Exception):
    """A wrong request: one sentence, and a stable ``code`` and a ``hint`` like those of a `MirrorError`."""

    status: ClassVar[int]
    code: ClassVar[str]
    hint: ClassVar[str]

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers or {}


class TokenRequired(RequestError):
    """*challenge* is the ``WWW-Authenticate`` of the answer (RFC 9110, 11.6.1)."""

    status, code = 401, "UNAUTHORIZED"
    hint = "Send the admin token: 'Authorization: Bearer …'."
    needed: ClassVar[str] = "the admin token"

    def __init__(self, challenge: str) -> None:
        message = f"This needs {self.needed}, and the request has none or a wrong one"
        super().__init__(message, {"WWW-Authenticate": challenge})


class PullTokenRequired(TokenRequired):
    """The request is for ``/v2``. A node must never be told to send the admin token."""

    hint = "Use a pull token (MIRROR_PULL_TOKEN) as the password of 'docker login', with any user name."
    needed = "a pull token"


class PullTokenRefused(RequestError):
    """A pull token is right, but does not allow this. RFC 6750, 3.1 has this status and this challenge for it."""

    status, code = 403, "DENIED"
    hint = "Send the admin token: 'Authorization: Bearer …'. Nodes do not need this request."

    def __init__(self, challenge: str) -> None:
        message = "The token of this request may only pull images, and this needs the admin token"
        super().__init__(message, {"WWW-Authenticate": f'{challenge}, error="insufficient_scope"'})


class TooManyFailures(RequestError):
    """RFC 6585, 4. The address may try again after *seconds*."""

    status, code = 429, "TOOMANYREQUESTS"
    hint = "Wait as 'Retry-After' says, then send the right token."

    def __init__(self, seconds: int) -> None:
        super().__init__("Too many requests from this address had a wrong token", {"Retry-After": str(seconds)})


class BodyMalformed(RequestError):
    status, code = 400, "REQUEST_MALFORMED"
    hint = 'Send a JSON object, for example {"source": "docker.io/library/redis:7"}.'

    def __init__(self, reason: str) -> None:
        super().__init__(f"The body is not what this API reads: {reason}")


class BodyTypeRefused(RequestError):
    status, code = 415, "UNSUPPORTED_MEDIA_TYPE"
    hint = "Send 'Content-Type: application/json'."

    def __init__(self, media_type: str) -> None:
        super().__init__(f"The body is sent as {quoted(media_type)}, and this API reads JSON only")


class RequestInvalid(RequestError):
    """One or more fields or parameters cannot be used. All of them are named at once."""

    status, code = 422, "REQUEST_INVALID"
    hint = "Correct what 'errors' names; /docs describes every field."

    def __init__(self, problems: Sequence[FieldProblem], message: str = _CANNOT_BE_USED) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class ParametersRepeated(RequestInvalid):
    """A query parameter is given twice. Servers and proxies disagree on whether the first or the last value counts."""

    hint = "Give every query parameter once."

    def __init__(self, names: Sequence[str]) -> None:
        listed = ", ".join(quoted(name, _SHOWN_NAME) for name in names)
        problems = [FieldProblem("Given more than once.", parameter=quoted(name, _SHOWN_NAME)[1:-1]) for name in names]
        super().__init__(problems, f"A query parameter is given more than once: {listed}")


class RequestTooSlow(RequestError):
    """RFC 9110, 15.5.9."""

    status, code = 408, "REQUEST_TIMEOUT"
    hint = "Send the request again, its body without a pause."

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The body of the request was not complete after {seconds:.0f} s")


class PageSizeInvalid(RequestError):
    """The ``n`` of a list under ``/v2`` (distribution spec, "Listing Tags")."""

    status, code = 400, "PAGINATION_NUMBER_INVALID"
    hint = "Give a whole number that is not negative, or leave 'n' out."

    def __init__(self, text: str) -> None:
        super().__init__(f"{quoted(text)} is not a number of results")


class RangeUnsatisfiable(RequestError):
    """RFC 9110, 15.5.17."""

    status, code = 416, "RANGE_INVALID"
    hint = "Ask for bytes that the blob has."

    def __init__(self, size: int, problem: str = "none of them is in the requested range") -> None:
        super().__init__(f"The blob has {size} bytes, and {problem}", {"Content-Range": f"bytes */{size}"})


@dataclass(frozen=True, slots=True)
class Failure:
    """What an answer says of an exception, in problem details or in the form of the distribution spec.

    ``code`` and ``hint`` are stable. ``message`` is for this one case.
    """

    status: int
    code: str
    message: str
    hint: str
    headers: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[FieldProblem, ...] = ()

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Return what may be shown of *error*. The details of an unexpected one go to the log alone."""
        if isinstance(error, MirrorError):
            headers = {} if error.http_retry_after is None else {"Retry-After": str(error.http_retry_after)}
            return cls(error.status, error.code, error.message, error.hint, headers, _places(error))
        if isinstance(error, RequestError):
            problems = error.problems if isinstance(error, RequestInvalid) else ()
            return cls(error.status, error.code, error.message, error.hint, error.headers, problems)
        if isinstance(error, HTTPException) and error.code is not None and error.code < 500:
            unreadable = ("REQUEST_MALFORMED", f"The request cannot be read: {error.name}", _READ_THE_DOCS)
            allowed = dict(error.get_headers()).get("Allow")
            return cls(error.code, *_ROUTING.get(error.code, unreadable), {"Allow": allowed} if allowed else {})
        _LOG.error("a request failed unexpectedly", exc_info=error)
        unknown = InternalError()
        return cls(unknown.status, unknown.code, unknown.message, unknown.hint)


def _places(error: MirrorError) -> tuple[FieldProblem, ...]:
    """Return the places of the body that are wrong, if the error knows them."""
    if error.where:
        return (FieldProblem(f"{error.message}.", pointer_of(error.where)),)
    found = error.problems if isinstance(error, SyncFileInvalid) else ()
    return tuple(FieldProblem(one.detail, one.pointer, line=one.line, column=one.column) for one in found)


_READ_THE_DOCS: Final = "/docs describes every request."
_ROUTING: Final[Mapping[int, tuple[str, str, str]]] = {
    404: ("NOT_FOUND", "There is nothing at this path", _READ_THE_DOCS),
    405: ("METHOD_NOT_ALLOWED", "This path does not know this method", "The header 'Allow' names those it knows."),
    413: (
        "REQUEST_TOO_LARGE",
        "The body is too large",
        "A job or a schedule takes 4 MiB, a file 1 MiB, and any other request 64 KiB.",
    ),
}


def codes_of_requests() -> list[tuple[int, str, str]]:
    """Return status, code and hint of every error of a request itself, for the page of error codes."""
    own = [(error.status, error.code, error.hint) for error in RequestError.__subclasses__()]
    return sorted([*own, *((status, code, hint) for status, (code, _, hint) in _ROUTING.items())])


def problem_type(code: str) -> str:
    """Return the URI of a kind of problem. It is the same at every mirror, and explained at that path of each."""
    return f"/docs/errors#{code}"


def problem_response(failure: Failure) -> Response:
    """Return *failure* as problem details."""
    problem: dict[str, Any] = {
        "type": problem_type(failure.code),
        "title": failure.code.replace("_", " ").capitalize(),
        "status": failure.status,
        "detail": failure.message,
        "instance": quote(request.path),
        "code": failure.code,
        "hint": failure.hint,
        "request_id": request_id.current(),
    }
    if failure.problems:
        found = [asdict(one) for one in failure.problems]
        problem["errors"] = [{name: value for name, value in one.items() if value is not None} for one in found]
    return Response(json.dumps(problem), failure.status, failure.headers, content_type=MEDIA_TYPE)


class FieldProblemSchema(Schema):
    detail = fields.String(required=True, metadata={"example": "Missing data for required field."})
    pointer = fields.String(metadata={"description": "JSON Pointer into the body.", "example": "/source"})
    parameter = fields.String(metadata={"description": "Name of the query parameter."})
    line = fields.Integer(metadata={"description": "In a body that is a text."})
    column = fields.Integer(metadata={"description": "In a body that is a text."})


class ProblemSchema(Schema):
    type = fields.String(required=True, metadata={"example": "/docs/errors#NAME_INVALID"})
    title = fields.String(required=True, metadata={"example": "Name invalid"})
    status = fields.Integer(required=True, metadata={"example": 422})
    detail = fields.String(
        required=True,
        metadata={"example": "'Redis:7' is not a valid image reference: the repository must be lower case"},
    )
    instance = fields.String(required=True, metadata={"description": "Path of the request.", "example": "/v1/jobs"})
    code = fields.String(
        required=True, metadata={"description": "Stable: scripts may rely on it.", "example": "NAME_INVALID"}
    )
    hint = fields.String(
        required=True, metadata={"description": "What to do.", "example": "Write it as 'docker pull' takes it."}
    )
    request_id = fields.String(
        required=True, metadata={"description": "Stands on every log line.", "example": "b7d1f0c2a4e86395"}
    )
    errors = fields.List(fields.Nested(FieldProblemSchema), metadata={"description": "Every field that is wrong."})
