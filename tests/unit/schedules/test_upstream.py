"""Which mirrored tags count as deleted at their source: table tests without any server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ulid import ULID

from mirror.oci.reference import RepositoryPattern
from mirror.records.followed import FollowedTag
from mirror.records.rule_schemas import TAG_RULES, TARGET_RULE
from mirror.records.run import Run
from mirror.records.schedule import DeleteBrake, UpstreamRules
from mirror.records.spec import ExpandSpec
from mirror.schedules.upstream import Decision, MirroredTag, Survey, decide

DIGEST = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64
REPOSITORY = "docker.io/library/app"
HOURLY, DAILY = timedelta(hours=1), timedelta(days=1)
NO_BRAKE = UpstreamRules("delete", brake=DeleteBrake(max_share=1, max_count=1_000_000))


def spec(
    source: str = REPOSITORY, tags: Mapping[str, Any] | None = None, target: Mapping[str, Any] | None = None
) -> ExpandSpec:
    rule = TARGET_RULE.load(dict(target or {"template": "{name}:{tag}"}))
    return ExpandSpec(RepositoryPattern.parse(source), TAG_RULES.load(dict(tags or {})), (rule,))


@dataclass
class History:
    """Runs of one schedule, one after the other, each with what its source lists."""

    rules: UpstreamRules = NO_BRAKE
    specs: list[ExpandSpec] = field(default_factory=lambda: [spec()])
    known: dict[str, FollowedTag] = field(default_factory=dict)
    now: datetime = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)

    def run(
        self,
        listed: Iterable[str] | None,
        selected: Iterable[str] | None = None,
        *,
        after: timedelta = DAILY,
        digest: str = DIGEST,
        ignores_brake: bool = False,
        **survey: Any,
    ) -> Decision:
        """Let the next run see these tags. None is a listing that failed. By default all tags are selected."""
        self.now += after
        run = Run(f"run_{ULID.from_datetime(self.now)}", "schedule", "following", "slot", self.now)
        return self.repeat(replace(run, ignores_brake=ignores_brake), listed, selected, digest=digest, **survey)

    def repeat(
        self,
        run: Run,
        listed: Iterable[str] | None,
        selected: Iterable[str] | None = None,
        *,
        digest: str = DIGEST,
        **survey: Any,
    ) -> Decision:
        tags = None if listed is None else set(listed)
        chosen = {
            f"app:{tag}": MirroredTag(f"{REPOSITORY}:{tag}", digest)
            for tag in (tags if selected is None else selected) or ()
        }
        found = Survey({} if tags is None else {REPOSITORY: tags}, chosen, self.specs, **survey)
        decision = decide(self.known, found, self.rules, run, self.now, "mirror.example")
        for target, tag in decision.changes.items():
            if tag is None:
                self.known.pop(target, None)
            else:
                self.known[target] = tag
        for target in decision.due:
            del self.known[target]
        return decision

    def due(self, listed: Iterable[str] | None, **more: Any) -> list[str]:
        return list(self.run(listed, **more).due)


def test_a_tag_is_due_after_three_complete_listings_and_a_day() -> None:
    history = History()
    history.run("abcd")
    assert [history.due("bcd") for _ in range(4)] == [[], [], ["app:a"], []]


@pytest.mark.parametrize(
    ("gone_for", "every", "due_at"),
    [
        (1, DAILY, 3),
        (1, timedelta(days=2), 2),
        (2, timedelta(days=2), 2),
        (3, timedelta(days=2), 3),
        (3, HOURLY, 26),
        (1, HOURLY, 26),
        (30, HOURLY, 30),
        (3, timedelta(hours=13), 3),
        (3, timedelta(hours=12), 4),
        (10, DAILY, 10),
    ],
)
def test_both_the_listings_and_more_than_a_day_count(gone_for: int, every: timedelta, due_at: int) -> None:
    history = History(replace(NO_BRAKE, gone_for=gone_for))
    history.run("abcd")
    assert next(number for number in range(1, 100) if history.due("bcd", after=every)) == due_at


def test_a_brown_out_of_a_day_deletes_nothing() -> None:
    history = History()
    history.run("abcd")
    assert [history.due("d", after=HOURLY) for _ in range(25)] == [[]] * 25
    assert history.due("abcd", after=HOURLY) == []
    assert [tag.missing for tag in history.known.values()] == [0, 0, 0, 0]
    assert [history.due("d", after=HOURLY) for _ in range(25)] == [[]] * 25


def test_a_tag_that_returns_starts_again() -> None:
    history = History()
    history.run("ab")
    assert [history.due(listed) for listed in ("b", "b", "ab", "b", "b")] == [[]] * 5
    assert history.due("b") == ["app:a"]


def test_a_listing_that_failed_neither_counts_nor_resets() -> None:
    history = History()
    history.run("ab")
    assert [history.due(listed) for listed in ("b", None, "b", None, None)] == [[]] * 5
    assert history.due("b") == ["app:a"]


def test_a_tag_is_due_only_in_a_run_whose_own_listing_lacks_it() -> None:
    history = History()
    history.run("ab")
    assert [history.due("b", after=HOURLY) for _ in range(5)] == [[]] * 5
    assert [history.due(None) for _ in range(3)] == [[]] * 3
    assert history.due("b") == ["app:a"]


def test_listings_that_all_failed_delete_nothing() -> None:
    history = History()
    history.run("ab")
    assert [history.due(None) for _ in range(10)] == [[]] * 10


def test_a_run_counts_once_however_often_it_is_decided() -> None:
    history = History()
    history.run("ab")
    history.run("b")
    run = Run(f"run_{ULID.from_datetime(history.now)}", "schedule", "following", "slot", history.now)
    for _ in range(5):
        history.repeat(run, "b")
    assert history.known["app:a"].missing == 2
    assert history.known["app:a"].counted_by == run.id


def test_a_tag_that_the_rules_do_not_select_any_more_is_not_gone() -> None:
    history = History(specs=[spec(tags={"latest": {"count": 2, "by": "lexical"}})])
    history.run("ab")
    assert [history.due("abcd", selected="cd") for _ in range(5)] == [[]] * 5
    assert sorted(history.known) == ["app:a", "app:b", "app:c", "app:d"]
    assert [history.due("bcd", selected="cd") for _ in range(3)] == [[], [], ["app:a"]]


def test_a_tag_that_was_never_mirrored_is_not_known() -> None:
    history = History()
    history.run("abcd", selected="ab")
    assert sorted(history.known) == ["app:a", "app:b"]
    assert [history.due("ab") for _ in range(5)] == [[]] * 5


def test_a_target_that_shows_something_from_elsewhere_is_forgotten() -> None:
    history = History()
    history.run("ab")
    run = Run(f"run_{ULID.from_datetime(history.now)}", "schedule", "following", "slot", history.now)
    foreign = {"app:a": MirroredTag(f"{REPOSITORY}:a", None, is_foreign=True)}
    survey = Survey({REPOSITORY: {"a", "b"}}, foreign, history.specs)
    assert decide(history.known, survey, NO_BRAKE, run, history.now, "mirror.example").changes == {"app:a": None}


def test_a_target_that_shows_nothing_stays_as_it_is_known() -> None:
    history = History()
    history.run("ab")
    run = Run(f"run_{ULID.from_datetime(history.now)}", "schedule", "following", "slot", history.now)
    selected = {f"app:{tag}": MirroredTag(f"{REPOSITORY}:{tag}", None) for tag in "abc"}
    survey = Survey({REPOSITORY: {"a", "b", "c"}}, selected, history.specs)
    assert decide(history.known, survey, NO_BRAKE, run, history.now, "mirror.example").changes == {}


def test_a_run_that_finds_nothing_new_writes_nothing() -> None:
    history = History()
    history.run("ab")
    assert history.run("ab").changes == {}


def test_what_the_target_shows_is_the_digest_that_was_seen_last() -> None:
    history = History()
    history.run("ab")
    history.run("ab", digest=OTHER)
    assert {tag.digest for tag in history.known.values()} == {OTHER}


@pytest.mark.parametrize(
    "edited",
    [
        [spec(tags={"allow": [{"exact": "z"}]})],
        [spec(tags={"deny": [{"exact": "a"}]})],
        [spec(tags={"semver": ">=2"})],
        [spec(target={"template": "elsewhere/{name}:{tag}"})],
        [spec("docker.io/library/other")],
        [],
    ],
    ids=["allow", "deny", "semver", "target", "repository", "no list"],
)
@pytest.mark.parametrize("listed", ["ab", "b"], ids=["listed", "not listed"])
def test_what_an_edited_job_does_not_cover_is_forgotten_and_not_deleted(edited: list[ExpandSpec], listed: str) -> None:
    history = History()
    history.run("ab")
    history.run("b")
    history.run("b")
    history.specs = edited
    assert history.run(listed, selected="").due == ()
    assert "app:a" not in history.known
    history.specs = [spec()]
    assert [history.due("b") for _ in range(5)] == [[]] * 5


def test_a_date_in_the_name_of_a_target_is_that_of_the_run_that_mirrored_it() -> None:
    history = History(specs=[spec(target={"template": "{name}:{tag}-{date}"})])
    history.now = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
    tag = FollowedTag(f"{REPOSITORY}:a", DIGEST, f"run_{ULID.from_datetime(history.now)}")
    history.known = {"app:a-20260301": tag, "app:a-20260228": tag}
    history.run("b", selected="")
    assert sorted(history.known) == ["app:a-20260301"]


def test_a_wildcard_that_lists_a_repository_no_longer_deletes_nothing_and_says_so() -> None:
    history = History(specs=[spec("docker.io/library/*"), spec()])
    history.run("ab")
    history.specs = [spec("docker.io/library/*"), spec("docker.io/library/other")]
    found = [history.run(None) for _ in range(5)]
    assert [decision.due for decision in found] == [()] * 5
    assert {decision.note and decision.note.code for decision in found} == {"REPOSITORY_GONE"}
    assert "docker.io/library/app" in str(found[0].note)
    assert sorted(history.known) == ["app:a", "app:b"]
    assert history.run(None, is_whole=False).note is None


@pytest.mark.parametrize(
    ("lost", "total", "brake", "holds"),
    [
        (5, 10, DeleteBrake(0.5, 100), False),
        (6, 10, DeleteBrake(0.5, 100), True),
        (100, 1000, DeleteBrake(0.5, 100), False),
        (101, 1000, DeleteBrake(0.5, 100), True),
        (1, 1, DeleteBrake(0.5, 100), True),
        (1, 2, DeleteBrake(0.5, 100), False),
        (10, 10, DeleteBrake(1, 100), False),
        (1, 10, DeleteBrake(0, 100), True),
        (1, 10, DeleteBrake(0.5, 0), True),
        (0, 10, DeleteBrake(0, 0), False),
        (29, 100, DeleteBrake(0.29, 100), False),
        (30, 100, DeleteBrake(0.29, 100), True),
    ],
)
def test_the_brake_holds_above_its_limits(lost: int, total: int, brake: DeleteBrake, holds: bool) -> None:
    history = History(replace(NO_BRAKE, brake=brake))
    tags = {f"t{number}" for number in range(total)}
    left = {f"t{number}" for number in range(lost, total)}
    history.run(tags)
    history.run(left)
    history.run(left)
    decision = history.run(left)
    assert (len(decision.due), decision.braked) == ((0, lost) if holds else (lost, 0))
    assert (decision.note is not None and decision.note.code == "DELETE_BRAKE") == holds
    assert len(decision.gone) == lost


def test_the_brake_names_both_numbers_and_what_to_do_and_is_ignored_once() -> None:
    history = History(UpstreamRules("delete"))
    history.run("abcd")
    for _ in range(2):
        history.run("a")
    note = history.run("a").note
    assert note is not None
    assert "3 of 4 tags" in note.message
    assert "At most 100 tags, and at most 50% of all" in note.message
    assert '{"ignore_brake": true}' in note.message
    assert history.run("a").braked == 3
    assert history.run("a", ignores_brake=True).due == ("app:b", "app:c", "app:d")


def test_a_deleted_target_is_forgotten_by_the_next_run() -> None:
    history = History()
    history.run("ab")
    history.known["app:a"] = replace(history.known["app:a"], missing=3, deleted_by="run_of_before")
    assert history.run("b").changes["app:a"] is None


def test_thousands_of_repositories_below_a_wildcard_take_little_time() -> None:
    """Quadratic time would be minutes."""
    names = [f"docker.io/team/r{number}" for number in range(3_000)]
    digests = (DIGEST, f"run_{ULID.from_datetime(datetime(2026, 3, 1, tzinfo=UTC))}")
    known = {f"r{number}:a": FollowedTag(f"{name}:a", *digests) for number, name in enumerate(names)}
    specs = [spec("docker.io/team/*"), *(spec(name) for name in names)]
    survey = Survey({name: {"b"} for name in names}, {}, specs)
    run = Run(f"run_{ULID()}", "schedule", "following", "slot", datetime(2026, 3, 2, tzinfo=UTC))
    assert len(decide(known, survey, NO_BRAKE, run, run.created_at, "mirror.example").gone) == 3_000


def test_what_this_run_has_deleted_already_counts_in_all_and_is_not_due_again() -> None:
    history = History(UpstreamRules("delete", gone_for=1))
    history.run("abcd")
    history.run("ab")
    history.now += DAILY
    run = Run(f"run_{ULID.from_datetime(history.now)}", "schedule", "following", "slot", history.now)
    history.known["app:c"] = replace(history.known["app:c"], deleted_by=run.id)
    decision = history.repeat(run, "ab")
    assert (decision.due, decision.braked) == ((), 0)
    history.now += HOURLY
    decision = history.repeat(run, "ab")
    assert (decision.due, decision.braked) == (("app:d",), 0)


@pytest.mark.parametrize(
    "tag",
    [
        FollowedTag("docker.io/library/app:1", DIGEST, "run_1"),
        FollowedTag("docker.io/library/app:1", DIGEST, "run_1", 2, datetime(2026, 3, 2, tzinfo=UTC), "run_2"),
        FollowedTag("docker.io/library/app:1", DIGEST, "run_1", 3, datetime(2026, 3, 2, tzinfo=UTC), "run_2", "run_3"),
    ],
)
def test_a_followed_tag_survives_its_json(tag: FollowedTag) -> None:
    assert FollowedTag.from_json(tag.to_json()) == tag
