from __future__ import annotations

import hashlib

import pytest

from mirror.registry.pull_limit import PullLimit
from mirror.registry.response_errors import LONGEST_WINDOW


def test_docker_hubs_headers_are_understood() -> None:
    stated = PullLimit.of(
        {
            "ratelimit-limit": "100;w=21600",
            "ratelimit-remaining": "76;w=21600",
            "docker-ratelimit-source": "192.0.2.7",
        }
    )
    assert stated == PullLimit(100, 21600, 76, hashlib.sha256(b"192.0.2.7").hexdigest()[:16])


@pytest.mark.parametrize("window", [86_401, 999_999_999, 10**18])
def test_a_window_is_at_most_a_day(window: int) -> None:
    stated = PullLimit.of({"ratelimit-limit": f"100;w={window}", "ratelimit-remaining": f"0;w={window}"})
    assert stated == PullLimit(100, LONGEST_WINDOW, 0, "-")


@pytest.mark.parametrize(
    ("limit", "remaining", "expected"),
    [
        ("100;w=60", "0", PullLimit(100, 60, 0, "-")),
        ("100", "7;w=60", PullLimit(100, 60, 7, "-")),
        (" 100 ; w=60 ", "7", PullLimit(100, 60, 7, "-")),
        ("100", "7", None),
        ("100;w=60", None, None),
        (None, "7;w=60", None),
        ("", "", None),
        ("0;w=60", "0;w=60", None),
        ("100;w=0", "7", None),
        ("many;w=60", "7", None),
        ("-1;w=60", "7", None),
        ("٣;w=60", "7", None),
        ("100;w=60", "9999999999999999999999", None),
        ("100;w=60;x=1", "7", None),
    ],
)
def test_a_limit_in_another_form_is_ignored(
    limit: str | None, remaining: str | None, expected: PullLimit | None
) -> None:
    stated = {"ratelimit-limit": limit, "ratelimit-remaining": remaining}
    assert PullLimit.of({name: value for name, value in stated.items() if value is not None}) == expected
