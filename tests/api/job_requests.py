"""Submit jobs through the API, and check its responses."""

from __future__ import annotations

import re
from typing import Any, Final

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
"""A time as the API writes it."""
COUNTS: Final = {"total": 1, "succeeded": 0, "failed": 0, "canceled": 0, "unchanged": 0, "skipped": 0, "running": 0}
"""The image counts of a queued job of one image."""


def post(api: FlaskClient, source: str, **fields: Any) -> dict[str, Any]:
    """Submit a job of one source. Return the job as the answer shows it."""
    response = api.post("/v1/jobs", json={"source": source, **fields})
    assert response.status_code == 202, response.json
    return dict(response.get_json())


def errors_of(response: TestResponse) -> list[dict[str, str]]:
    """Return the errors of a request that was refused because its fields are wrong."""
    assert response.status_code == 422, response.get_data()
    problem = response.get_json()
    assert problem["code"] == "REQUEST_INVALID", problem
    return list(problem["errors"])
