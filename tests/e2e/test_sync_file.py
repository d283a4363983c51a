"""A real scheduler and a real worker follow a sync file: its schedules run, with its credentials."""

from __future__ import annotations

from pathlib import Path

from mirror.records.schedules import ScheduleStore
from tests.e2e.conftest import MakeFleet
from tests.e2e.processes import eventually
from tests.support import images
from tests.support.servers import RcloneS3

SECRET = "hunter2-of-the-registry"


def test_an_edited_file_is_followed_and_a_syntax_error_changes_nothing(
    make_fleet: MakeFleet, rclone_s3: RcloneS3, tmp_path: Path
) -> None:
    path = tmp_path / "mirror.yaml"
    fleet = make_fleet(rclone_s3, MIRROR_SYNC_FILE=str(path), REGISTRY_TOKEN=SECRET)
    fleet.registry.basic = ("robot", SECRET)
    fleet.registry.put(images.three_platforms("x"), "team/app", "1")
    host = fleet.registry.host
    text = (
        "version: 1\n"
        f"credentials: {{fake: {{registry: '{host}', username: robot, password: '${{REGISTRY_TOKEN}}'}}}}\n"
        "syncs:\n"
        f"  - {{name: app, every: 6h, run_on_change: true, job: {{source: '{host}/team/app:1'}}}}\n"
    )
    path.write_text(text)
    schedules, scheduler_log = ScheduleStore(fleet.redis), tmp_path / "scheduler.log"

    def is_nightly() -> bool:
        return schedules.schedule("app").definition.timetable.cron == "30 2 * * *"

    with fleet.scheduler(), fleet.worker():
        eventually(lambda: fleet.is_published("team/app:1"), what="the job of the file has run")
        path.write_text(text.replace("every: 6h", "cron: '30 2 * * *'"))
        eventually(is_nightly, what="the edit is applied")
        path.write_text(text.replace("every: 6h", "every: [6h"))
        eventually(lambda: "the sync file is broken" in scheduler_log.read_text(), what="the error is noted")
        assert is_nightly()
    assert SECRET not in scheduler_log.read_text() + (tmp_path / "worker.log").read_text()
