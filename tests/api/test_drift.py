"""Drift reports over HTTP. `test_live.py` runs the script of the how-to."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from mirror.records.schedule_schema import read_definition
from mirror.wiring import Core
from tests.api.drift_plans import COPY, NIGHTLY, end_plan


def test_a_report_is_made_once_and_then_returned_again(core: Core, api: FlaskClient) -> None:
    schedule = core.schedules.create(read_definition(NIGHTLY))
    path = "/v1/schedules/nightly/drift"
    for _ in range(2):
        answer = api.get(path)
        assert (answer.status_code, answer.get_json()) == (202, {"state": "planning"})
        assert answer.headers["Retry-After"] == "2"
    assert end_plan(core, COPY)
    assert not end_plan(core, COPY)
    answer = api.get(f"/v1/schedules/{schedule.id}/drift?wait=5s")
    found = answer.get_json()
    assert answer.status_code == 200
    assert {name: found[name] for name in ("state", "copy", "delete", "braked", "gone")} == {
        "state": "drifted",
        "copy": 1,
        "delete": 0,
        "braked": False,
        "gone": [],
    }
    [plan] = api.get("/v1/plans").get_json()["items"]
    assert found["plan"] == plan["links"]["self"]
    assert core.schedules.runs.runs(schedule, limit=10) == []


@pytest.mark.parametrize("query", ["max_age=9s", "max_age=25h", "wait=26s", "wait=soon", "color=red"])
def test_a_question_that_cannot_be_answered_is_refused(core: Core, api: FlaskClient, query: str) -> None:
    core.schedules.create(read_definition(NIGHTLY))
    assert api.get(f"/v1/schedules/nightly/drift?{query}").status_code == 422


def test_an_unknown_schedule_has_no_report(api: FlaskClient) -> None:
    answer = api.get("/v1/schedules/nightly/drift")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "SCHEDULE_UNKNOWN")
