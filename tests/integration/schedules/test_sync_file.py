"""A sync file is edited under a scheduler: the schedules follow it, and a broken file changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.records.schedule_schema import read_definition
from mirror.records.sync_file_status import SyncFileStatus
from mirror.redis import keys
from mirror.schedules.watch import SyncFileWatcher
from mirror.wiring import Core, build
from tests.conftest import MakeSettings

START = "version: 1\nsyncs:\n"
ALPINE = '  - {name: alpine, cron: "30 2 * * *", job: {source: {repository: alpine}, tags: {semver: ">=3"}}}\n'
REDIS = "  - {name: redis, every: 6h, job: {source: redis:7}}\n"


@dataclass
class Watched:
    """A file, and a scheduler that looks at it. *clock* is its monotonic clock."""

    core: Core
    path: Path
    clock: list[float]
    watcher: SyncFileWatcher

    def look(self) -> None:
        """Look as often as it takes to apply a change."""
        for _ in range(2):
            self.watcher.run(lambda: True)

    def edit(self, text: str) -> None:
        self.path.write_text(text)
        self.look()

    def pass_time(self, seconds: float) -> None:
        self.clock[0] += seconds
        self.watcher.run(lambda: True)

    def schedules(self) -> dict[str, int]:
        """The version of each schedule by its name."""
        return {one.definition.name: one.version for one in self.core.schedules.store.all()}

    @property
    def status(self) -> SyncFileStatus:
        status = self.core.converger.status()
        assert status is not None
        return status


@pytest.fixture
def make_watched(redis_url: str, settings: MakeSettings, tmp_path: Path) -> Iterator[Callable[[], Watched]]:
    """Makes schedulers of one fleet, each with a file of its own. Nothing in it uses S3 or a registry."""
    cores: list[Core] = []

    def make() -> Watched:
        folder = tmp_path / str(len(cores))
        folder.mkdir()
        path = folder / "mirror.yaml"
        core = build(settings(redis_url=redis_url, s3_bucket="unused", sync_file=path))
        cores.append(core)
        clock = [0.0]
        return Watched(core, path, clock, SyncFileWatcher(path, core.converger, lambda: clock[0]))

    yield make
    for core in cores:
        core.close()


@pytest.fixture
def watched(make_watched: Callable[[], Watched]) -> Watched:
    return make_watched()


def create(watched: Watched, name: str) -> None:
    watched.core.schedules.create(read_definition({"name": name, "every": "1h", "job": {"source": "redis:7"}}))


def test_the_schedules_follow_the_file(watched: Watched) -> None:
    watched.edit(START + ALPINE + REDIS)
    assert watched.schedules() == {"alpine": 1, "redis": 1}
    assert {one.origin for one in watched.core.schedules.store.all()} == {"file"}
    first = watched.core.schedules.store.schedule("alpine")
    watched.edit(START + ALPINE.replace("30 2", "45 3"))
    assert watched.schedules() == {"alpine": 2}
    edited = watched.core.schedules.store.schedule("alpine")
    assert (edited.id, edited.created_at) == (first.id, first.created_at)
    assert edited.definition.timetable.cron == "45 3 * * *"
    change = watched.status.last_change
    assert change is not None
    assert (change.created, change.updated, change.deleted, change.unchanged) == (0, 1, 1, 0)
    watched.edit("version: 1\nsyncs: []\n")
    assert watched.schedules() == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (START + REDIS + ALPINE.replace("cron:", "corn:"), (4, "corn:")),
        (START + REDIS + "  - {name: [", (5, "")),
        (START + REDIS.replace("6h", "6 hours"), (3, "every:")),
        (START + REDIS + REDIS, (4, "name:")),
        (
            START + "  - {name: redis, every: 6h, job: {source: redis:7, target: quay.io/redis:7}}\n",
            (3, "source: redis:7"),
        ),
        (
            START + "  - {name: redis, every: 6h, job: {images: [{source: redis}, {source: 127.0.0.1/a}]}}\n",
            (3, "{source: 127"),
        ),
        ("", (1, "")),
        ("version: 1\n", (1, "version")),
    ],
)
def test_a_broken_file_leaves_everything_as_it_was_and_says_where(
    watched: Watched, text: str, place: tuple[int, str]
) -> None:
    watched.edit(START + ALPINE)
    before = watched.core.schedules.store.all()
    good = watched.status.last_change
    with capture_logs() as logs:
        watched.edit(text)
        watched.pass_time(61)
    assert watched.core.schedules.store.all() == before
    assert (watched.status.state, watched.status.last_change) == ("broken", good)
    first = watched.status.problems[0]
    assert first.line == place[0]
    assert [*text.splitlines(), ""][first.line - 1][first.column - 1 :].startswith(place[1])
    [line] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (line["line"], line["column"]) == (first.line, first.column)
    watched.edit(START + ALPINE + REDIS)
    assert watched.schedules() == {"alpine": 1, "redis": 1}
    assert (watched.status.state, watched.status.problems) == ("ok", ())


def test_a_missing_file_changes_nothing(watched: Watched) -> None:
    watched.look()
    assert watched.status.state == "missing"
    watched.edit(START + REDIS)
    watched.path.unlink()
    watched.look()
    assert (watched.status.state, watched.schedules()) == ("missing", {"redis": 1})


def test_a_half_written_file_is_not_applied(watched: Watched) -> None:
    watched.edit(START + ALPINE + REDIS)
    for text in (START + ALPINE, START, START + ALPINE + REDIS):
        watched.path.write_text(text)
        watched.watcher.run(lambda: True)
    watched.look()
    assert watched.schedules() == {"alpine": 1, "redis": 1}


def test_a_config_map_is_replaced_behind_a_link(watched: Watched) -> None:
    """Kubernetes replaces the link ``..data``. The file's own name never changes."""
    folder = watched.path.parent
    for version, text in enumerate((START + ALPINE, START + REDIS)):
        (folder / str(version)).mkdir()
        (folder / str(version) / "mirror.yaml").write_text(text)
    (folder / "..data").symlink_to("0")
    watched.path.symlink_to("..data/mirror.yaml")
    watched.look()
    assert watched.schedules() == {"alpine": 1}
    (folder / "new").symlink_to("1")
    os.replace(folder / "new", folder / "..data")  # noqa: PTH105 - as the kubelet does
    watched.look()
    assert watched.schedules() == {"redis": 1}


def test_what_the_api_has_made_is_left_alone_and_reported(watched: Watched) -> None:
    create(watched, "redis")
    create(watched, "other")
    watched.edit(START + ALPINE + REDIS)
    assert watched.schedules() == {"redis": 1, "other": 1, "alpine": 1}
    assert watched.core.schedules.store.schedule("redis").origin == "api"
    assert watched.status.conflicts == ("redis",)
    watched.edit("version: 1\nsyncs: []\n")
    assert watched.schedules() == {"redis": 1, "other": 1}


def test_what_somebody_deletes_or_edits_by_hand_comes_back_within_a_minute(watched: Watched) -> None:
    watched.edit(START + ALPINE + REDIS)
    schedules = watched.core.schedules
    schedules.delete(schedules.store.schedule("alpine"))
    redis = schedules.store.schedule("redis")
    schedules.replace(redis, replace(redis.definition, enabled=False))
    watched.pass_time(59)
    assert watched.schedules() == {"redis": 2}
    watched.pass_time(2)
    assert watched.schedules() == {"alpine": 1, "redis": 3}
    assert schedules.store.schedule("redis").definition.enabled


def test_an_unchanged_file_is_logged_once(watched: Watched) -> None:
    with capture_logs() as logs:
        watched.edit(START + REDIS)
        for _ in range(3):
            watched.pass_time(61)
    assert [entry["event"] for entry in logs].count("the sync file is applied") == 1


def test_the_next_scheduler_goes_on_where_the_last_one_stopped(make_watched: Callable[[], Watched]) -> None:
    """Also with another version of the file, as while a ConfigMap is rolled out: the one with the lease counts."""
    first, second = make_watched(), make_watched()
    first.edit(START + ALPINE + REDIS)
    second.edit(START + ALPINE + REDIS)
    assert second.schedules() == {"alpine": 1, "redis": 1}
    second.edit(START + ALPINE)
    assert first.schedules() == {"alpine": 1}
    assert second.core.converger.watched == "mirror.yaml"


def test_a_request_does_not_know_the_file_of_a_scheduler_that_is_long_gone(
    watched: Watched, redis_url: str, settings: MakeSettings
) -> None:
    watched.edit(START + REDIS)
    now = [watched.status.checked_at]
    core = build(settings(redis_url=redis_url, s3_bucket="unused"), now=lambda: now[0])
    fresh = core.converger.watched
    now[0] += timedelta(minutes=6)
    assert (fresh, core.converger.watched) == ("mirror.yaml", None)
    core.close()


def test_a_login_in_a_name_is_not_repeated(watched: Watched) -> None:
    with capture_logs() as logs:
        watched.edit(START + REDIS.replace("redis:7", "'https://user:hunter2@harbor.corp/a:1'"))
    assert "https://…@harbor.corp/a:1" in watched.status.problems[0].detail
    assert "hunter2" not in str([logs, watched.core.redis.call("GET", keys.SYNC_FILE)])


def test_nothing_of_a_credential_is_stored_or_logged(watched: Watched) -> None:
    secret = "hunter2-of-the-hub"
    login = f"credentials: {{hub: {{registry: docker.io, username: u, password: {secret}}}}}\n"
    with capture_logs() as logs:
        watched.edit(START + REDIS + login)
        watched.edit(START + REDIS.replace("6h", "x") + login.replace("username", "user"))
    redis = watched.core.redis
    hashes = [redis.call("HGETALL", keys.schedule(one.id)) for one in watched.core.schedules.store.all()]
    assert (watched.status.state, len(hashes)) == ("broken", 1)
    assert secret not in str([logs, hashes, redis.call("GET", keys.SYNC_FILE)])
