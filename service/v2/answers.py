"""What all answers under ``/v2`` share: one header, and errors in the form of the distribution spec."""

from __future__ import annotations

from typing import Final

from flask import Response, json

from service.http.failures import Failure

API_VERSION: Final = ("Docker-Distribution-Api-Version", "registry/2.0")
"""docker takes an answer without it for one of another service."""
_BAD_REQUEST: Final = 400
_UNPROCESSABLE: Final = 422
_READ_ONLY: Final = (
    "this registry is read-only; copy images into it with POST /v1/jobs",
    "/docs describes POST /v1/jobs; an image that no registry has must be pushed to one first.",
)
"""What 'docker push' shows: clients print the message, and few of them the hint."""
_UNSUPPORTED: Final = frozenset({"NOT_FOUND", "METHOD_NOT_ALLOWED"})


def is_below(path: str) -> bool:
    """Whether *path* belongs to the distribution API."""
    return path == "/v2" or path.startswith("/v2/")


def refusal(failure: Failure) -> Response:
    """*failure* as "Error Codes" of the distribution spec has it; malformed names are 400 there."""
    status = _BAD_REQUEST if failure.status == _UNPROCESSABLE else failure.status
    code = "UNSUPPORTED" if failure.code in _UNSUPPORTED else failure.code
    message, hint = _READ_ONLY if failure.code == "METHOD_NOT_ALLOWED" else (failure.message, failure.hint)
    error = {"code": code, "message": message, "detail": {"hint": hint}}
    return Response(json.dumps({"errors": [error]}), status, failure.headers, content_type="application/json")
