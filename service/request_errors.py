"""What can be wrong with an HTTP request itself, whatever it asks for. What it asks for fails as a `MirrorError`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mirror.errors import quoted


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of the body (*pointer*, RFC 6901) or one query parameter (*parameter*)."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class RequestError(Exception):
    """A sentence, and the same stable ``code`` and ``hint`` that a `MirrorError` has."""

    status: ClassVar[int]
    code: ClassVar[str]
    hint: ClassVar[str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def headers(self) -> Mapping[str, str]:
        return {}


class TokenRequired(RequestError):
    """*challenge* is the ``WWW-Authenticate`` of the answer (RFC 9110, 11.6.1)."""

    status, code = 401, "UNAUTHORIZED"
    hint = "Send the admin token: 'Authorization: Bearer …', or as the password of 'docker login'."

    def __init__(self, challenge: str) -> None:
        super().__init__("This needs the admin token, and the request has none or a wrong one")
        self._challenge = challenge

    @property
    def headers(self) -> Mapping[str, str]:
        return {"WWW-Authenticate": self._challenge}


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
    """One or more fields or parameters cannot be used; all are named at once."""

    status, code = 422, "REQUEST_INVALID"
    hint = "Correct what 'errors' names; /docs describes every field."

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__("The request has fields or parameters that cannot be used")
        self.problems = tuple(problems)


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

    def __init__(self, size: int) -> None:
        super().__init__(f"The blob has {size} bytes, none of them in the range asked for")
        self._size = size

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Range": f"bytes */{self._size}"}
