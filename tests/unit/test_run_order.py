"""The order of the test files: what waits is spread among what computes, and nothing is lost."""

from __future__ import annotations

from tests.support.run_order import LONGEST, run_order
from tests.support.servers.process import REPOSITORY

WAITING = [*LONGEST, "tests/e2e/test_nodes.py"]
OTHERS = [f"tests/integration/jobs/test_{number}.py" for number in range(21)]
UNIT = ["tests/unit/oci/test_digest.py", "tests/unit/test_errors.py"]


def test_every_file_is_in_the_order_once() -> None:
    ordered = run_order([*UNIT, *OTHERS, *WAITING, *UNIT, *OTHERS])
    assert sorted(ordered) == sorted([*UNIT, *OTHERS, *WAITING])


def test_waiting_files_are_spread_among_the_others_and_unit_tests_are_last() -> None:
    ordered = run_order([*UNIT, *OTHERS, *WAITING])
    assert [path for path in ordered if path in WAITING] == WAITING
    assert [path for path in ordered if path in OTHERS] == OTHERS
    assert ordered[-2:] == UNIT
    for place in range(0, 28, 4):
        assert len(set(ordered[place : place + 4]) & set(WAITING)) == 1


def test_the_order_does_not_depend_on_how_the_files_were_found() -> None:
    assert run_order(reversed(WAITING[:-1])) == WAITING[:-1]
    assert run_order([]) == []


def test_the_longest_files_exist() -> None:
    assert [path for path in LONGEST if not (REPOSITORY / path).is_file()] == []
