"""The order of the test files in a run of several processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LONGEST: Final = (
    "tests/chaos/test_chaos.py",
    "tests/e2e/test_resume.py",
    "tests/e2e/test_worker.py",
    "tests/e2e/test_lanes.py",
    "tests/e2e/test_many_tags.py",
    "tests/integration/deploy/test_stopping.py",
)
"""Files that take longer than all others. They start first, so that no process runs one of them alone at the end."""
_WAITING: Final = ("tests/chaos/", "tests/e2e/", "tests/integration/deploy/")
_SHORT: Final = ("tests/unit/",)


def run_order(paths: Iterable[str]) -> list[str]:
    """Order files so that a run takes less time. The order changes no result.

    Tests of the folders in `_WAITING` mostly wait for other programs, such as for the lease of a killed worker. Other
    tests mostly compute. So the waiting ones are spread evenly among the others. Unit tests are last, because their
    files are short. Then all processes end at about the same time.
    """
    found = list(dict.fromkeys(paths))
    waiting = [path for path in found if path.startswith(_WAITING)]
    waiting.sort(key=lambda path: LONGEST.index(path) if path in LONGEST else len(LONGEST))
    last = [path for path in found if path.startswith(_SHORT)]
    others = [path for path in found if not path.startswith((*_WAITING, *_SHORT))]
    return [*_spread(waiting, others), *last]


def _spread(some: list[str], among: list[str]) -> list[str]:
    """Merge two lists. Each part of the result has its share of both."""
    placed = [(number / len(some), 0, path) for number, path in enumerate(some)]
    placed += [(number / len(among), 1, path) for number, path in enumerate(among)]
    placed.sort(key=lambda place: place[:2])
    return [path for _, _, path in placed]
