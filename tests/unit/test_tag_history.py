"""The check of the tests that look for stale tags: what it accepts, and what it must notice."""

from __future__ import annotations

from itertools import count

import pytest

from mirror.oci.digest import Digest
from tests.support import tag_history
from tests.support.tag_history import TagHistory, TagRead

OLD, NEW = Digest("sha256", "a" * 64), Digest("sha256", "b" * 64)


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> TagHistory:
    """The tag is OLD from time 1 on. It becomes NEW between the times 10 and 20."""
    times = iter((0.0, 1.0, 10.0, 20.0))
    monkeypatch.setattr(tag_history, "monotonic", lambda: next(times))
    history = TagHistory("team/app:1")
    for digest in (OLD, NEW):
        with history.change(digest):
            pass
    return history


def stale(history: TagHistory, *reads: tuple[Digest | None, float, float]) -> int:
    numbers = count(1)
    for digest, begun, ended in reads:
        history.add_read(TagRead(digest, begun, ended, f"reader {next(numbers)}"))
    return len(history.stale_reads())


def test_a_read_during_a_change_sees_the_old_or_the_new_state(history: TagHistory) -> None:
    assert stale(history, (OLD, 2, 3), (OLD, 9, 21), (NEW, 9, 21), (NEW, 11, 12), (OLD, 11, 13), (NEW, 21, 22)) == 0


@pytest.mark.parametrize(
    "read",
    [(OLD, 20.5, 21), (None, 20.5, 21), (None, 2, 3), (NEW, 2, 3), (Digest("sha256", "c" * 64), 11, 12)],
    ids=["after the change", "no tag after the change", "no tag before it", "before it", "never written"],
)
def test_a_stale_or_invented_state_is_noticed(history: TagHistory, read: tuple[Digest | None, float, float]) -> None:
    assert stale(history, read) == 1


def test_a_reader_does_not_see_the_old_state_after_another_one_saw_the_new(history: TagHistory) -> None:
    assert stale(history, (NEW, 11, 12), (OLD, 13, 14)) == 1
    assert "reader 2 saw" in history.stale_reads()[0]
    assert history.stale_reads()[0].endswith("was read")


def test_a_change_that_failed_may_have_happened_or_not_until_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 1.0, 10.0, 20.0, 30.0))
    monkeypatch.setattr(tag_history, "monotonic", lambda: next(times))
    history = TagHistory("team/app:1")
    with history.change(OLD):
        pass
    with history.change(NEW, is_answered=False):
        pass
    with history.change(None):
        pass
    assert stale(history, (OLD, 11, 12), (NEW, 13, 14), (None, 31, 32)) == 0
    assert stale(history, (OLD, 15, 16)) == 1
    assert stale(history, (NEW, 33, 34)) == 2


def test_a_rollback_to_an_older_digest_is_a_new_state(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(map(float, range(10)))
    monkeypatch.setattr(tag_history, "monotonic", lambda: next(times))
    history = TagHistory("team/app:1")
    for digest in (OLD, NEW, OLD):
        with history.change(digest):
            pass
    assert stale(history, (OLD, 1.5, 1.6), (NEW, 3.5, 3.6), (OLD, 5.5, 5.6)) == 0
    assert stale(history, (NEW, 5.7, 5.8)) == 1
