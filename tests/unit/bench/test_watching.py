from __future__ import annotations

import pytest

from bench.ours import until_the_next_look


@pytest.mark.parametrize(
    ("passed", "copied", "seconds"),
    [
        pytest.param(0.3, 0, 0.05, id="nothing is known yet"),
        pytest.param(0.5, 500, 0.25, id="half of what is left"),
        pytest.param(9.0, 100, 1.0, id="never long"),
        pytest.param(2.5, 1000, 0.02, id="all bytes are there"),
    ],
)
def test_a_job_is_looked_at_when_it_may_have_ended(passed: float, copied: int, seconds: float) -> None:
    assert until_the_next_look(passed, {"bytes": {"total": 1000, "copied": copied}}) == pytest.approx(seconds)
