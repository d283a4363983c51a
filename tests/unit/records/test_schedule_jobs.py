from __future__ import annotations

import pytest

from mirror.records.rules import OnMove
from mirror.records.schedule_schema import read_definition, read_job

DOCUMENT = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "job": {"images": [{"source": "alpine:3"}, {"source": "redis:7", "on_move_upstream": "report"}]},
}


@pytest.mark.parametrize(
    ("of_schedule", "of_images"), [("follow", ["follow", "report"]), ("report", ["report", "report"])]
)
def test_a_schedule_that_only_reports_moves_does_so_for_all_of_its_images(
    of_schedule: OnMove, of_images: list[OnMove]
) -> None:
    request = read_job(read_definition({**DOCUMENT, "on_move_upstream": of_schedule}))
    assert [image.options.on_move_upstream for image in request.images] == of_images
    assert [image.source for image in request.images] == ["alpine:3", "redis:7"]
