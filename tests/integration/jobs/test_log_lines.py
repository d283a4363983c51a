"""The lines that a task has in the log: one when it starts, one when it waits or ends."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.support import images
from tests.support.fakes import faults
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

Line = MutableMapping[str, Any]


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the log. Any S3 server will do."""
    return rclone_s3


def lines_of(logged: list[Line], job_id: str) -> list[Line]:
    return [line for line in logged if line.get("job_id") == job_id]


def mirrored(harness: Harness, source: str) -> list[Line]:
    with capture_logs(processors=[merge_contextvars]) as logged:
        job = harness.mirror(source)
    return lines_of(logged, job.id)


def test_a_copy_has_a_line_with_its_names_and_one_with_its_seconds_and_bytes(harness: Harness) -> None:
    image = images.image(images.layer("logged", 5000))
    harness.registry.put(image, "logged/app", "1")
    started, *_, ended = mirrored(harness, "logged/app:1")
    source = f"{harness.registry.host}/logged/app:1"
    assert (started["event"], started["source"], started["attempt"]) == ("task started", source, 1)
    assert started["target"].endswith("/logged/app:1")
    assert (ended["event"], ended["source"], ended["digest"]) == ("task succeeded", source, str(image.digest))
    assert ended["bytes"] == sum(map(len, image.blobs.values()))
    assert ended["seconds"] >= 0


def test_a_second_time_no_bytes_are_counted(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("twice", 5000)), "twice/app", "1")
    mirrored(harness, "twice/app:1")
    *_, ended = mirrored(harness, "twice/app:1")
    assert (ended["event"], ended["unchanged"], ended["bytes"]) == ("task succeeded", True, 0)


def test_a_failure_is_a_warning_with_code_reason_and_hint(harness: Harness) -> None:
    started, ended = mirrored(harness, "missing/app:1")
    assert started["event"] == "task started"
    assert (ended["event"], ended["log_level"], ended["code"]) == ("task failed", "warning", "MANIFEST_UNKNOWN")
    assert ended["source"] == f"{harness.registry.host}/missing/app:1"
    assert ended["reason"]
    assert ended["hint"]


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [(faults.status(503), 1), (faults.status(429, Retry_After="77"), 77)],
    ids=["down", "limited"],
)
def test_a_wait_is_a_warning_with_its_reason_and_for_how_long(
    harness: Harness, answer: faults.Change, seconds: int
) -> None:
    harness.registry.put(images.image(images.layer("first", 100)), "waits/app", "1")
    mirrored(harness, "waits/app:1")
    harness.registry.put(images.image(images.layer("second", 100)), "waits/app", "2")
    harness.registry.script(faults.faulty(answer))
    *_, waits = mirrored(harness, "waits/app:2")
    assert (waits["event"], waits["log_level"]) == ("task waits", "warning")
    assert waits["source"] == f"{harness.registry.host}/waits/app:2"
    assert waits["code"]
    assert waits["reason"]
    assert seconds <= waits["seconds"] <= seconds + 60
    assert waits["until"].startswith("20")
