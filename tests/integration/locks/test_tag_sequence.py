from __future__ import annotations

from mirror.locks.tag_sequence import Publication, TagSequence
from mirror.redis.client import Redis


def test_numbers_grow_per_tag(redis: Redis) -> None:
    sequence = TagSequence(redis)
    assert sequence.take([("team/app", "1"), ("team/app", "1"), ("team/app", "2")]) == [1, 2, 1]
    assert sequence.take([("team/app", "1"), ("team", "app:1")]) == [3, 1]


def test_a_change_is_overtaken_by_a_published_change_with_a_higher_number(redis: Redis) -> None:
    sequence = TagSequence(redis)
    first, second = sequence.take([("team/app", "1")] * 2)
    assert sequence.overtaken_by("team/app", "1", first) is None
    assert sequence.publish([("team/app", "1", second, "job_B")]) == [None]
    assert sequence.overtaken_by("team/app", "1", first) == "job_B"
    assert sequence.overtaken_by("team/app", "1", second) is None


def test_publishing_a_lower_number_late_changes_nothing(redis: Redis) -> None:
    sequence = TagSequence(redis)
    changes = [("team/app", "1", 2, "job_B"), ("team/app", "1", 1, "job_A"), ("team/app", "2", 1, "job_A")]
    assert sequence.publish(changes) == [None, "job_B", None]
    assert sequence.published("team/app", "1") == Publication(2, "job_B")
