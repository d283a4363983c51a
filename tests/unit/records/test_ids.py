from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from mirror.records.ids import new_ulid
from mirror.records.job_request import MOST_IMAGES

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def test_ids_of_one_moment_are_further_apart_than_the_tasks_of_a_job() -> None:
    ids = [new_ulid(NOW) for _ in range(1000)]
    assert all(int(after) - int(before) > MOST_IMAGES + 1 for before, after in pairwise(ids))
    assert {found.datetime for found in ids} == {NOW}


def test_ids_sort_by_time() -> None:
    assert new_ulid(1000) < new_ulid(1001) < new_ulid(1001) < new_ulid(1002)
