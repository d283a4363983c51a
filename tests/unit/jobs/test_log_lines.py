"""The lines that a task has in the log: one when it starts, one when it waits or ends."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests import images
from tests.fakes import faults
from tests.plant import Plant

Line = MutableMapping[str, Any]


def lines_of(logged: list[Line], job_id: str) -> list[Line]:
    return [line for line in logged if line.get("job_id") == job_id]


def mirrored(plant: Plant, source: str) -> list[Line]:
    with capture_logs(processors=[merge_contextvars]) as logged:
        job = plant.mirror(source)
    return lines_of(logged, job.id)


def test_a_copy_has_a_line_with_its_names_and_one_with_its_seconds_and_bytes(plant: Plant) -> None:
    image = images.image(images.layer("logged", 5000))
    plant.registry.put(image, "logged/app", "1")
    started, ended = mirrored(plant, "logged/app:1")
    source = f"{plant.registry.host}/logged/app:1"
    assert (started["event"], started["source"], started["attempt"]) == ("task started", source, 1)
    assert started["target"].endswith("/logged/app:1")
    assert (ended["event"], ended["source"], ended["digest"]) == ("task succeeded", source, str(image.digest))
    assert ended["bytes"] == sum(map(len, image.blobs.values()))
    assert ended["seconds"] >= 0


def test_a_second_time_no_bytes_are_counted(plant: Plant) -> None:
    plant.registry.put(images.image(images.layer("twice", 5000)), "twice/app", "1")
    mirrored(plant, "twice/app:1")
    *_, ended = mirrored(plant, "twice/app:1")
    assert (ended["event"], ended["unchanged"], ended["bytes"]) == ("task succeeded", True, 0)


def test_a_failure_is_a_warning_with_code_reason_and_hint(plant: Plant) -> None:
    started, ended = mirrored(plant, "missing/app:1")
    assert started["event"] == "task started"
    assert (ended["event"], ended["log_level"], ended["code"]) == ("task failed", "warning", "MANIFEST_UNKNOWN")
    assert ended["source"] == f"{plant.registry.host}/missing/app:1"
    assert ended["reason"]
    assert ended["hint"]


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [(faults.status(503), 1), (faults.status(429, Retry_After="77"), 77)],
    ids=["down", "limited"],
)
def test_a_wait_is_a_warning_with_its_reason_and_for_how_long(
    plant: Plant, answer: faults.Change, seconds: int
) -> None:
    plant.registry.put(images.image(images.layer("first", 100)), "waits/app", "1")
    mirrored(plant, "waits/app:1")
    plant.registry.put(images.image(images.layer("second", 100)), "waits/app", "2")
    plant.registry.script(faults.faulty(answer))
    *_, waits = mirrored(plant, "waits/app:2")
    assert (waits["event"], waits["log_level"]) == ("task waits", "warning")
    assert waits["source"] == f"{plant.registry.host}/waits/app:2"
    assert waits["code"]
    assert waits["reason"]
    assert seconds <= waits["seconds"] <= seconds + 60
    assert waits["until"].startswith("20")
