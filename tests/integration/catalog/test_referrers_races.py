"""Whatever else adds to a list of referrers or dies, in the end all referrers are listed, each once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest

from mirror.errors import TagBusy
from mirror.redis import keys
from mirror.storage import layout
from tests.support import images
from tests.support.dying_lists import BUSY, Adding, run_rounds
from tests.support.harness import Harness
from tests.support.referrer_set import KIND, REPOSITORY, ReferrerSet, publish_at
from tests.support.servers import RcloneS3

WRITES: Final = 5
"""Writes of an addition: the list, its record, history and revision, and the tag's link, which commits it."""
KILLED: Final = -9


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """Lists are written as tags are, and test_tag_changes.py runs on both servers."""
    return rclone_s3


@contextmanager
def before_request(number: int, signed: ReferrerSet, intrude: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Call *intrude* before the S3 request *number* of the block. Yield whether the block has made so many.

    The request that commits does not count. It ends long before the lease, which was just renewed.
    """
    numbers = itertools.count(1)
    intruded: list[bool] = []

    def counted(request: Any, verb: str) -> Any:
        def send(key: str, *args: Any, **options: Any) -> Any:
            is_commit = (verb, key) == ("put", layout.tag_current_key(*signed.tag))
            if not intruded and not is_commit and next(numbers) == number:
                intruded.append(True)
                intrude()
            return request(key, *args, **options)

        return send

    bucket = signed.core.bucket
    with pytest.MonkeyPatch.context() as patch:
        for verb in ("open", "size", "put"):
            patch.setattr(bucket, verb, counted(getattr(bucket, verb), verb))
        yield lambda: bool(intruded)


def end_leases(signed: ReferrerSet) -> None:
    """Let the leases of the list and of its record expire, as they do 30 s after their holder died or was frozen."""
    of_records = keys.image_record_lease(REPOSITORY, signed.subject.digest).removesuffix(str(signed.subject.digest))
    records = signed.core.redis.call("KEYS", f"{of_records}*")
    signed.core.redis.call("DEL", keys.tag_lease(*signed.tag), *records)


def require_whole(signed: ReferrerSet, expected: set[int]) -> None:
    """Require that the list has all that is *expected*, each once, and that readers and lists agree about it."""
    listed = signed.listed()
    assert (set(listed), len(listed)) == (expected, len(expected))
    shown = signed.core.links.current(*signed.tag)
    assert shown
    assert signed.core.reader.manifest(signed.target).descriptor.digest == shown
    entry = signed.core.index.entry(*signed.tag)
    assert entry
    assert (entry.digest, signed.core.changes.last_known(signed.target)) == (str(shown), shown)


def test_another_writer_at_any_step_loses_nothing(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.catalog.tag_change._LOCK_TIMEOUT", 0)
    outcomes = set()
    for step in itertools.count(1):
        signed = ReferrerSet.of(harness.core, 3, seed=f"step {step}")
        signed.add(0)
        busy: list[TagBusy] = []

        def intrude(signed: ReferrerSet = signed, busy: list[TagBusy] = busy) -> None:
            try:
                signed.add(2)
            except TagBusy as error:
                busy.append(error)

        with before_request(step, signed, intrude) as intruded:
            assert signed.add(1) == 1
        if not intruded():
            break
        outcomes.add(bool(busy))
        require_whole(signed, {0, 1} if busy else {0, 1, 2})
        assert signed.add(2) == len(busy)
        assert signed.listed() == ([0, 1, 2] if busy else [0, 2, 1])
    assert outcomes == {True, False}, "it has come before the lease was taken, and while it was held"


def test_a_writer_that_was_frozen_until_its_lease_expired_commits_nothing(harness: Harness) -> None:
    lost = 0
    for step in itertools.count(1):
        signed = ReferrerSet.of(harness.core, 3, seed=f"frozen {step}")
        signed.add(0)

        def intrude(signed: ReferrerSet = signed) -> None:
            end_leases(signed)
            signed.add(2)

        with before_request(step, signed, intrude) as intruded:
            try:
                expected = {0, 1, 2} if signed.add(1) else set()
            except TagBusy:
                lost += 1
                expected = {0, 2}
        if not intruded():
            break
        require_whole(signed, expected)
        signed.add(1, 2)
        require_whole(signed, {0, 1, 2})
    assert lost


def test_many_writers_at_once_are_all_listed(harness: Harness) -> None:
    signed = ReferrerSet.of(harness.core, 8)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(signed.add, range(8))) == [1] * 8
    require_whole(signed, set(range(8)))


def test_whatever_write_kills_a_process_the_list_is_the_old_one_or_the_new_one(harness: Harness) -> None:
    made = [ReferrerSet.of(harness.core, 2, seed=f"killed {number}") for number in range(2 * WRITES + 1)]
    is_new = [number >= WRITES for number in range(len(made))]  # without a list before, and with one
    for signed, new in zip(made, is_new, strict=True):
        if not new:
            signed.add(0)
    deaths = [number % WRITES + 1 for number in range(2 * WRITES)] + [WRITES + 1]
    rounds = [[Adding.of(signed, 1, dies_after=death)] for signed, death in zip(made, deaths, strict=True)]
    ended = [status for [status] in run_rounds(harness.core, rounds)]
    assert ended == [KILLED] * 2 * WRITES + [0]
    for signed, new, death in zip(made, is_new, deaths, strict=True):
        before = [] if new else [0]
        assert signed.listed() == ([*before, 1] if death >= WRITES else before)
        end_leases(signed)
        assert signed.add(1) == (0 if death >= WRITES else 1)
        require_whole(signed, {*before, 1})


def test_two_processes_that_are_killed_at_seeded_moments_both_list_theirs(harness: Harness) -> None:
    """What died, or found the tag busy, runs again. Leases of the dead have expired then."""
    chance = random.Random(46)
    made = [ReferrerSet.of(harness.core, 4, seed=f"pair {number}") for number in range(8)]
    rounds = [
        [Adding.of(signed, *own, dies_after=chance.choice((0, *range(1, WRITES + 1)))) for own in ((0, 1), (2, 3))]
        for signed in made
    ]
    ended = run_rounds(harness.core, rounds)
    statuses = {status for group in ended for status in group}
    assert statuses <= {0, BUSY, KILLED}
    assert KILLED in statuses
    for signed, group in zip(made, ended, strict=True):
        end_leases(signed)
        for status, own in zip(group, ((0, 1), (2, 3)), strict=True):
            listed = set(signed.listed())
            assert set(own) <= listed or status != 0
            added = signed.add(*own)
            assert added in (0, 2), "the two of one writer are listed together"
        require_whole(signed, {0, 1, 2, 3})


def test_a_copy_of_the_tag_that_began_before_does_not_replace_the_list(harness: Harness) -> None:
    signed = ReferrerSet.of(harness.core, 2)
    older = images.index((None, images.artifact(KIND, b"older")))
    [change] = harness.core.changes.take_numbers([(signed.target, "job_0")])
    signed.add(0, by="job_1")
    assert publish_at(harness.core, older, change).superseded_by == "job_1"
    require_whole(signed, {0})


def test_a_list_is_extended_where_another_change_was_later(harness: Harness) -> None:
    """The number of a writer does not matter. What a copy has published is extended, never replaced."""
    signed = ReferrerSet.of(harness.core, 2)
    theirs = images.artifact(KIND, b"theirs")
    copied = images.index((None, theirs))
    [change] = harness.core.changes.take_numbers([(signed.target, "job_9")])

    def copy() -> None:
        assert publish_at(harness.core, copied, change).superseded_by is None

    with before_request(1, signed, copy) as intruded:
        assert signed.add(0) == 1
    assert intruded()
    assert signed.listed() == [theirs.digest, 0]
