"""What can be wrong with an HTTP request itself, whatever it asks for. What it asks for fails as a `MirrorError`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from mirror.errors import quoted

_CANNOT_BE_USED: Final = "The request has fields or parameters that cannot be used"
_SHOWN_NAME: Final = 64


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


class TooManyFailures(RequestError):
    """RFC 6585, 4. *seconds* until the address may try again."""

    status, code = 429, "TOOMANYREQUESTS"
    hint = "Wait as 'Retry-After' says, then send the right token."

    def __init__(self, seconds: int) -> None:
        super().__init__("Too many requests from this address had a wrong token")
        self._seconds = seconds

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(self._seconds)}


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

    def __init__(self, problems: Sequence[FieldProblem], message: str = _CANNOT_BE_USED) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class ParametersRepeated(RequestInvalid):
    """Of two values of one query parameter, servers and proxies take the first or the last."""

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
        super().__init__(f"The body of the request was not there whole after {seconds:.0f} s")


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
