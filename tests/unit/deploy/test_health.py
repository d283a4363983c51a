from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from deploy.image.health import STUCK_SECONDS, is_fresh


@pytest.mark.parametrize(
    ("age", "fresh"),
    [
        (0, True),
        (2 * STUCK_SECONDS, False),
        (-365 * 86_400, False),  # the clock was set back, and the process has not touched the file since
    ],
)
def test_a_heartbeat_file_is_fresh_if_it_was_touched_lately(tmp_path: Path, age: float, fresh: bool) -> None:
    heartbeat = tmp_path / "heartbeat"
    heartbeat.touch()
    touched = time.time() - age
    os.utime(heartbeat, (touched, touched))
    assert is_fresh(heartbeat) == fresh


def test_a_process_that_has_written_no_heartbeat_is_not_fresh(tmp_path: Path) -> None:
    assert not is_fresh(tmp_path / "heartbeat")
