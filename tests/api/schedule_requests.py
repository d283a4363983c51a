"""Create schedules through the API, and check its refusals."""

from __future__ import annotations

from typing import Any, Final

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

NIGHTLY: Final = {"name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Paris", "job": {"source": "redis:7"}}
ONE: Final = "/v1/schedules/nightly"


def create(api: FlaskClient, **fields: Any) -> dict[str, Any]:
    """Create a schedule like `NIGHTLY`. Return it as the answer shows it."""
    response = api.post("/v1/schedules", json={**NIGHTLY, **fields})
    assert response.status_code == 201, response.json
    return dict(response.get_json())


def refused(response: TestResponse) -> tuple[int, str]:
    """Return the status and the code of a problem."""
    return response.status_code, response.get_json()["code"]
