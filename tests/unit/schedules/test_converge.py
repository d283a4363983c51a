"""What makes the schedules those of a file, without Redis."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mirror.records.schedule import Origin, Schedule, ScheduleDefinition
from mirror.records.schedule_schema import read_definition
from mirror.schedules.converge import diff

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def definition(name: str, **fields: Any) -> ScheduleDefinition:
    return read_definition({"name": name, "every": "6h", "job": {"source": "redis:7"}, **fields})


def held(name: str, origin: Origin = "file", **fields: Any) -> Schedule:
    return Schedule(f"schedule_{name}", definition(name, **fields), 1, origin, "admin", NOW, NOW)


def test_a_file_creates_updates_and_deletes_what_a_file_has_made() -> None:
    changes = diff(
        [definition("new"), definition("same"), definition("edited", jitter="10m", job={"source": "redis:8"})],
        [held("gone"), held("same"), held("edited")],
    )
    assert [one.name for one in changes.create] == ["new"]
    assert [(one.name, one.fields) for one in changes.update] == [("edited", ("jitter", "job"))]
    assert [one.definition.name for one in changes.delete] == ["gone"]
    assert changes.unchanged == 1
    assert not changes.is_empty


def test_what_the_api_has_made_is_left_alone() -> None:
    changes = diff([definition("taken")], [held("taken", "api", jitter="10m"), held("other", "api")])
    assert changes.is_empty
    assert changes.conflicts == ("taken",)


def test_a_conflict_is_one_even_if_both_say_the_same() -> None:
    assert diff([definition("taken")], [held("taken", "api")]).conflicts == ("taken",)


def test_a_field_that_has_its_default_is_no_change() -> None:
    changes = diff([definition("a", time_zone="UTC", overlap="skip", gone_for=3)], [held("a")])
    assert (changes.is_empty, changes.unchanged) == (True, 1)


def test_a_new_name_is_another_schedule() -> None:
    changes = diff([definition("b")], [held("a")])
    assert ([one.name for one in changes.create], len(changes.delete), changes.update) == (["b"], 1, ())


def test_an_empty_list_deletes_what_a_file_has_made_and_nothing_else() -> None:
    changes = diff([], [held("b"), held("a"), held("c", "api")])
    assert [one.definition.name for one in changes.delete] == ["a", "b"]
    assert diff([], []).is_empty
