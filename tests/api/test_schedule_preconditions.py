"""Changes of schedules with If-Match and If-None-Match, and by several writers at once."""

from __future__ import annotations

import threading
from typing import Any, Final

import pytest
from flask.testing import FlaskClient

from mirror.wiring import Core
from tests.api.schedule_requests import NIGHTLY, ONE, create, refused

PRECONDITIONS: Final = [
    ("If-Match", '"1"', True),
    ("If-Match", '"7", "1"', True),
    ("If-Match", "*", True),
    ("If-Match", 'W/"1"', False),
    ("If-Match", '"2"', False),
    ("If-Match", '"11"', False),
    ("If-Match", '"1', False),
    ("If-Match", "", False),
    ("If-None-Match", "*", False),
    ("If-None-Match", '"1"', False),
    ("If-None-Match", 'W/"1"', False),
    ("If-None-Match", '"2"', True),
]


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_a_change_keeps_its_preconditions(api: FlaskClient, core: Core, method: str) -> None:
    for header, value, is_allowed in PRECONDITIONS:
        core.redis.client.flushdb()
        create(api)
        response = api.open(ONE, method=method, json={**NIGHTLY, "enabled": False}, headers={header: value})
        if is_allowed:
            assert response.status_code == (204 if method == "delete" else 200), (header, value)
        else:
            assert refused(response) == (412, "PRECONDITION_FAILED"), (header, value)
            assert api.get(ONE).get_json()["enabled"] is True


def test_put_with_if_match_creates_nothing(api: FlaskClient) -> None:
    for given in ('"1"', "*"):
        response = api.put(ONE, json=NIGHTLY, headers={"If-Match": given})
        assert refused(response) == (412, "PRECONDITION_FAILED")
        assert "does not exist" in response.get_json()["detail"]
    assert api.put(ONE, json=NIGHTLY, headers={"If-None-Match": "*"}).status_code == 201


def test_of_writers_with_one_version_one_wins(api: FlaskClient) -> None:
    create(api)
    statuses: list[int] = []
    barrier = threading.Barrier(8)

    def write(n: int) -> None:
        barrier.wait()
        response = api.application.test_client().put(
            ONE,
            json={**NIGHTLY, "deadline": f"{n + 1}h"},
            headers={"If-Match": '"1"', "Authorization": api.environ_base["HTTP_AUTHORIZATION"]},
        )
        statuses.append(response.status_code)

    in_parallel(write)
    assert sorted(statuses) == [200, *[412] * 7]
    assert api.get(ONE).get_json()["version"] == 2


def test_writers_without_a_version_all_win_in_turn(api: FlaskClient) -> None:
    statuses: list[int] = []
    barrier = threading.Barrier(4)

    def write(n: int) -> None:
        barrier.wait()
        response = api.application.test_client().put(
            ONE,
            json={**NIGHTLY, "deadline": f"{n + 1}h"},
            headers={"Authorization": api.environ_base["HTTP_AUTHORIZATION"]},
        )
        statuses.append(response.status_code)

    in_parallel(write, count=4)
    assert sorted(statuses) == [200, 200, 200, 201]
    assert api.get(ONE).get_json()["version"] == 4


def in_parallel(write: Any, count: int = 8) -> None:
    threads = [threading.Thread(target=write, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
