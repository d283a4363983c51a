"""Failures as problem details (RFC 9457), everywhere but under ``/v2``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from flask import Response, json, request

from service.http import request_id
from service.http.failures import Failure

MEDIA_TYPE: Final = "application/problem+json"


def problem_type(code: str) -> str:
    """The URI of a kind of problem: the same at every mirror, and the place on this one where it is explained."""
    return f"/docs/errors#{code}"


def answer(failure: Failure) -> Response:
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
        problem["errors"] = [_without_nothing(asdict(found)) for found in failure.problems]
    return Response(json.dumps(problem), failure.status, failure.headers, content_type=MEDIA_TYPE)


def _without_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
