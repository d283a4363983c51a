"""What a release decides for each tag, and that its journal can be read again. Random interleavings are simulated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.catalog.overwrite import FoundImage
from mirror.catalog.release import SeenTag, is_due, is_undoable, refreshed, require_movable
from mirror.catalog.released_images import StagedTag
from mirror.catalog.tag_change import TagChange
from mirror.errors import ReleaseSuperseded, TagDrifted
from mirror.locks.tag_sequence import Publication
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.tag_pattern import TagPattern
from mirror.records.rules import CopyOptions
from mirror.storage.releases import ReleaseJournal, TagMove

JOB = "job_01K0000000000000000000000"
OTHER = "job_01K0000000000000000000001"
OLD, NEW, ELSE = (Digest.of(text) for text in (b"old", b"new", b"else"))
NUMBER = 10
FOUND = FoundImage("docker.io/library/app:1", NEW, NEW)
REPORT = CopyOptions(on_move_upstream="report")


@dataclass
class Tag:
    """A tag of the simulation: what the bucket shows, and what Redis has recorded.

    *base* is what it would show if there had never been a release. *is_moved* says that it shows what the release made.
    """

    shown: Digest | None
    last: Publication | None
    base: Digest | None
    is_moved: bool = False
    changed_by: int = 0
    """The highest number of a change by another job."""

    @property
    def seen(self) -> SeenTag:
        return SeenTag(self.shown, self.last)


class Simulation:
    """A release of tags whose process dies at any point, and changes of its tags by another job in between."""

    def __init__(self, tags: list[Tag]) -> None:
        self.tags = tags
        self.is_lost = False
        self._moves: list[TagMove] = []
        for number, tag in enumerate(tags):
            last = (tag.last.number, tag.last.by) if tag.last else (0, "")
            self._moves.append(TagMove("team/app", str(number), tag.shown, NEW, NUMBER, *last))

    def move(self, most: int) -> None:
        """Move at most so many tags. If that is all, also record them."""
        if not self.is_lost:
            self._moves = [refreshed(move, tag.seen, JOB) for move, tag in self._both()]
        due = [tag for move, tag in self._both() if is_due(move, tag.seen, JOB, is_lost=self.is_lost)]
        for tag in due[:most]:
            tag.shown, tag.is_moved = NEW, True
        if most >= len(due) and not self.is_lost:
            for tag in due:
                tag.last = Publication(NUMBER, JOB)

    def undo(self, most: int) -> None:
        """Move at most so many tags back."""
        for move, tag in [(move, tag) for move, tag in self._both() if is_undoable(move, tag.seen, JOB)][:most]:
            tag.shown, tag.is_moved = move.before, False

    def change(self, tag: Tag, number: int) -> None:
        """Let another job change a tag, if its number is not superseded."""
        if tag.last is None or tag.last.number <= number:
            tag.shown = tag.base = ELSE
            tag.last, tag.is_moved = Publication(number, OTHER), False
            tag.changed_by = max(tag.changed_by, number)

    def lose_redis(self) -> None:
        self.is_lost = True
        for tag in self.tags:
            tag.last = None

    def expected(self, tag: Tag, *, undone: bool) -> Digest | None:
        if undone:
            return tag.base
        if self.is_lost and tag.changed_by:
            return NEW if tag.is_moved else ELSE
        return ELSE if tag.changed_by > NUMBER else NEW

    def _both(self) -> list[tuple[TagMove, Tag]]:
        return list(zip(self._moves, self.tags, strict=True))


KINDS = [(None, None), (OLD, Publication(3, OTHER)), (OLD, None)]
"""A tag that does not exist, one that a job has made, and one that Redis knows nothing of."""
EVENTS = st.one_of(
    st.tuples(st.just("die"), st.integers(0, 6)),
    st.tuples(st.just("change"), st.sampled_from([5, 9, 11, 20])),
)


@given(st.data())
def test_after_any_deaths_and_changes_all_tags_of_a_release_have_moved_or_none(data: st.DataObject) -> None:
    """A tag that another job changed as well shows what the later of the two changes made."""
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    simulation = Simulation([Tag(shown, last, shown) for shown, last in kinds])
    events = data.draw(st.lists(EVENTS, max_size=8))
    undone_from = data.draw(st.one_of(st.none(), st.integers(0, len(events))))
    lost_at = data.draw(st.one_of(st.none(), st.integers(0, len(events))))
    for place, (event, number) in enumerate(events):
        if place == lost_at:
            simulation.lose_redis()
        if event == "change":
            simulation.change(data.draw(st.sampled_from(simulation.tags)), number)
        elif undone_from is not None and place >= undone_from:
            simulation.undo(number)
        else:
            simulation.move(number)
    if undone_from is None:
        simulation.move(len(kinds))
    else:
        simulation.undo(len(kinds))
    shown = [tag.shown for tag in simulation.tags]
    assert shown == [simulation.expected(tag, undone=undone_from is not None) for tag in simulation.tags]


@given(
    st.lists(
        st.builds(
            TagMove,
            st.just("team/app"),
            st.text("ab1", min_size=1),
            st.sampled_from([None, OLD]),
            st.just(NEW),
            st.integers(1, 2**53),
            st.integers(0, 2**53),
            st.text(max_size=30),
        )
    )
)
def test_a_journal_is_read_as_it_was_written(moves: list[TagMove]) -> None:
    journal = ReleaseJournal(JOB, "undoing", datetime(2026, 11, 28, 23, 59, 59, 123000, UTC), tuple(moves))
    assert ReleaseJournal.from_json(JOB, journal.to_json()) == journal


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff", b'{"state": "moving"}', b"[" * 100_000])
def test_what_is_no_journal_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"journal|Expecting|decode"):
        ReleaseJournal.from_json(JOB, content)


def test_an_unknown_state_of_a_journal_is_refused() -> None:
    journal = ReleaseJournal(JOB, "moving", datetime.now(UTC), ())
    with pytest.raises(ValueError, match="unknown state"):
        ReleaseJournal.from_json(JOB, journal.to_json().replace(b"moving", b"hovering"))


@pytest.mark.parametrize(
    ("shown", "last", "is_superseded"),
    [
        (OLD, None, False),
        (OLD, Publication(NUMBER - 1, OTHER), False),
        (OLD, Publication(NUMBER, JOB), False),
        (ELSE, Publication(NUMBER + 1, OTHER), True),
        (None, Publication(NUMBER + 1, "delete"), True),
        (NEW, Publication(NUMBER + 1, OTHER), False),
    ],
)
def test_a_later_change_to_another_image_supersedes_a_release(
    shown: Digest | None, last: Publication | None, is_superseded: bool
) -> None:
    staged = StagedTag(TagChange(LocalImage("team/app", "1"), NUMBER, JOB), FOUND)
    if not is_superseded:
        require_movable(staged, SeenTag(shown, last))
        return
    with pytest.raises(ReleaseSuperseded, match="team/app:1"):
        require_movable(staged, SeenTag(shown, last))


@pytest.mark.parametrize(
    ("options", "shown", "refusal"),
    [
        (CopyOptions(overwrite="never"), OLD, ReleaseSuperseded),
        (CopyOptions(overwrite="never"), None, None),
        (CopyOptions(overwrite="never"), NEW, None),
        (CopyOptions(immutable=(TagPattern("glob", "1*"),)), OLD, TagDrifted),
        (CopyOptions(immutable=(TagPattern("glob", "1*"),)), NEW, None),
        (CopyOptions(immutable=(TagPattern("glob", "2*"),)), OLD, None),
        (REPORT, OLD, ReleaseSuperseded),
        (REPORT, None, None),
        (REPORT, NEW, None),
    ],
)
def test_a_release_moves_no_tag_that_its_job_may_not_overwrite(
    options: CopyOptions, shown: Digest | None, refusal: type[Exception] | None
) -> None:
    staged = StagedTag(TagChange(LocalImage("team/app", "1"), NUMBER, JOB), FOUND, options)
    if refusal is None:
        require_movable(staged, SeenTag(shown, None))
        return
    with pytest.raises(refusal, match="team/app:1"):
        require_movable(staged, SeenTag(shown, None))


def test_a_tag_whose_source_stayed_moves_to_what_other_rules_for_platforms_made_of_it() -> None:
    made = FoundImage("docker.io/library/app:1", OLD, NEW)
    staged = StagedTag(TagChange(LocalImage("team/app", "1"), NUMBER, JOB), made, REPORT)
    require_movable(staged, SeenTag(ELSE, None, made_from=OLD))
    with pytest.raises(ReleaseSuperseded):
        require_movable(staged, SeenTag(ELSE, None, made_from=ELSE))
