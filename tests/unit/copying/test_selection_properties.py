"""Selection equals a naive reference that knows each tag by its parts and never parses anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import product
from typing import Final, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.copying.selection import Selection, TagFacts, TagSelector, needs, select_tags
from mirror.oci.digest import Digest
from mirror.oci.tag_pattern import TagPattern
from mirror.oci.version import TagVersion, VersionRange
from mirror.records.rules import TAG_ORDERS, LatestTags, TagRules

NOW: Final = datetime(2024, 11, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
DIGESTS: Final = tuple(Digest.of(bytes([number])) for number in range(4))
TYPES: Final = ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json")
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class KnownTag:
    """A tag whose version is known by its parts: *numbers*, and the number of a release candidate (99 is a release)."""

    facts: TagFacts
    numbers: Triple | None = None
    candidate: int = 99
    variant: str = ""

    @property
    def name(self) -> str:
        return self.facts.tag


@dataclass(frozen=True)
class Comparator:
    """An operator, the numbers that are given, and the variant that the range asks for."""

    operator: Literal["=", "!=", ">", ">=", "<", "<=", "~", "^"]
    given: tuple[int, ...]
    variant: str = ""

    def __str__(self) -> str:
        return self.operator + ".".join(map(str, self.given)) + (f"-{self.variant}" if self.variant else "")

    def holds(self, numbers: Triple) -> bool:
        """Compare as many numbers as are given. That is what a partial version means."""
        cut, given = numbers[: len(self.given)], self.given
        fixed = next((place for place, number in enumerate(given) if number), len(given) - 1) + 1
        return {
            "=": cut == given,
            "!=": cut != given,
            ">": cut > given,
            ">=": cut >= given,
            "<": cut < given,
            "<=": cut <= given,
            "~": cut >= given and cut[:2] == given[:2],
            "^": cut >= given and cut[:fixed] == given[:fixed],
        }[self.operator]


Range = Sequence[Sequence[Comparator]]


@dataclass(frozen=True)
class Case:
    """The rules of a case, with its range in parts."""

    rules: TagRules
    versions: Range | None


def in_range(tag: KnownTag, versions: Range) -> bool:
    if tag.numbers is None or tag.candidate < 99:
        return False
    for comparators in versions:
        wanted = {one.variant for one in comparators if one.variant and one.operator != "!="} or {""}
        excluded = [
            one
            for one in comparators
            if one.operator == "!=" and not one.holds(tag.numbers) and one.variant in ("", tag.variant)
        ]
        others = [one for one in comparators if one.operator != "!="]
        if not excluded and tag.variant in wanted and all(one.holds(tag.numbers) for one in others):
            return True
    return False


def matches(pattern: TagPattern, tag: str) -> bool:
    return fnmatchcase(tag, pattern.text) if pattern.kind == "glob" else tag == pattern.text


def droppers(tag: KnownTag, case: Case) -> set[str]:
    """Return all rules but ``latest`` that drop the tag, each on its own."""
    rules, facts = case.rules, tag.facts
    verdicts = {
        "allow": rules.allow != () and not any(matches(pattern, tag.name) for pattern in rules.allow),
        "deny": any(matches(pattern, tag.name) for pattern in rules.deny),
        "semver": case.versions is not None and not in_range(tag, case.versions),
        "exclude_digests": rules.exclude_digests != ()
        and (facts.digest is None or facts.digest in rules.exclude_digests),
        "media_types": rules.media_types != () and facts.media_type not in rules.media_types,
        "since": rules.since is not None and (facts.created is None or facts.created < rules.since),
        "min_age": rules.min_age is not None and NOW - (facts.first_seen or NOW) < rules.min_age,
    }
    return {rule for rule, drops in verdicts.items() if drops}


def place(tag: KnownTag, by: str) -> tuple[object, ...] | None:
    """Return a key for the place of the tag in an order, None if it has none."""
    if by == "created":
        return None if tag.facts.created is None else (tag.facts.created,)
    if by == "semver":
        return None if tag.numbers is None else (*tag.numbers, tag.candidate)
    if by == "lexical":
        return tuple(map(ord, tag.name))
    runs: list[object] = [""]
    for character in tag.name:
        if character.isdigit():
            runs = [*runs[:-1], int(f"{runs[-1]}{character}")] if isinstance(runs[-1], int) else [*runs, int(character)]
        else:
            runs = [*runs, character] if isinstance(runs[-1], int) else [*runs[:-1], f"{runs[-1]}{character}"]
    return tuple(runs) if len(runs) > 1 else None


def beats(one: KnownTag, other: KnownTag, by: str) -> bool:
    mine, others = place(one, by), place(other, by)
    if mine is None or others is None:
        return others is None and mine is not None
    return mine > others or (mine == others and one.name < other.name)


def reference(tags: Sequence[KnownTag], case: Case) -> set[str]:
    """Select by comparing every tag with every other."""
    left = [tag for tag in tags if not droppers(tag, case)]
    latest = case.rules.latest
    if latest is None:
        return {tag.name for tag in left}
    placed = [tag for tag in left if place(tag, latest.by) is not None]
    return {tag.name for tag in placed if sum(beats(other, tag, latest.by) for other in placed) < latest.count}


numbers = st.integers(0, 2)
times = st.none() | st.integers(0, 6).map(lambda days: NOW - days * DAY)
VARIANTS: Final = ("slim", "alpine3.19")


@st.composite
def known_tags(draw: st.DrawFn) -> KnownTag:
    digest, media_type = draw(st.none() | st.sampled_from(DIGESTS)), draw(st.none() | st.sampled_from(TYPES))
    created, first_seen = draw(times), draw(times)
    if draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from(["latest", "edge", "main-12", "main-9", "20240105", "1..2", "v", "2024-01-05"]))
        return KnownTag(TagFacts(name, digest, media_type, created, first_seen))
    given = draw(st.lists(numbers, min_size=1, max_size=3))
    candidate = draw(st.sampled_from([99, 99, 99, 1, 2, 10]))
    variant = draw(st.sampled_from(["", "", *VARIANTS]))
    suffixes = [f"rc{candidate}"] if candidate < 99 else []
    name = draw(st.sampled_from(["", "v"])) + ".".join(map(str, given))
    name = "-".join([name, *suffixes, *([variant] if variant else [])])
    major, minor, patch = (*given, 0, 0)[:3]
    return KnownTag(TagFacts(name, digest, media_type, created, first_seen), (major, minor, patch), candidate, variant)


comparators = st.builds(
    Comparator,
    st.sampled_from(["=", "!=", ">", ">=", "<", "<=", "~", "^"]),
    st.lists(numbers, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["", "", *VARIANTS]),
)
ranges = st.lists(st.lists(comparators, min_size=1, max_size=3), min_size=1, max_size=2)
patterns = st.lists(
    st.builds(TagPattern, st.just("glob"), st.sampled_from(["*", "1*", "*-rc*", "v*", "?.?", "*[02]", "*1*2*"]))
    | st.builds(TagPattern, st.just("exact"), st.sampled_from(["latest", "1", "1.2"])),
    max_size=2,
).map(tuple)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    versions = draw(st.none() | ranges)
    separator = draw(st.sampled_from([" ", ",", " , "]))
    rules = TagRules(
        allow=draw(patterns),
        deny=draw(patterns),
        semver=" || ".join(separator.join(map(str, one)) for one in versions) if versions else None,
        latest=draw(st.none() | st.builds(LatestTags, st.integers(1, 4), st.sampled_from(TAG_ORDERS))),
        min_age=draw(st.none() | st.integers(0, 6).map(lambda days: days * DAY)),
        since=draw(times),
        exclude_digests=tuple(draw(st.lists(st.sampled_from(DIGESTS), max_size=2))),
        media_types=tuple(draw(st.lists(st.sampled_from(TYPES), max_size=1))),
    )
    return Case(rules, versions)


EVERY_TAG: Final = tuple(
    KnownTag(TagFacts(f"{major}.{minor}.{patch}{rc}{suffix}"), (major, minor, patch), 1 if rc else 99, suffix[1:])
    for major, minor, patch in product(range(3), repeat=3)
    for rc in ("", "-rc1")
    for suffix in ("", "-slim", "-alpine3.19")
)


@settings(max_examples=150, deadline=None)
@given(ranges)
def test_a_range_allows_what_the_reference_allows(versions: Range) -> None:
    parsed = VersionRange.parse(" || ".join(" ".join(map(str, one)) for one in versions))
    found = [tag.name for tag in EVERY_TAG if (read := TagVersion.parse(tag.name)) and parsed.allows(read)]
    assert found == [tag.name for tag in EVERY_TAG if in_range(tag, versions)]


tag_lists = st.lists(known_tags(), max_size=15, unique_by=lambda tag: tag.name)


def step_by_step(tags: Sequence[KnownTag], rules: TagRules, sizes: Sequence[int]) -> tuple[Selection, list[str]]:
    """Select as an expansion does: pages of names, then batches of facts. Return the tags whose facts were wanted."""
    selector = TagSelector(rules, NOW)
    facts = {tag.name: tag.facts for tag in tags}
    for start in range(0, len(tags), 7):
        selector.add(tag.name for tag in tags[start : start + 7])
    asked: list[str] = []
    turn = 0
    while wanted := selector.wanted(sizes[turn % len(sizes)]):
        turn += 1
        asked += wanted
        for name in reversed(wanted):
            selector.decide(facts[name])
    return selector.result(), asked


@settings(max_examples=150, deadline=None)
@given(tag_lists, cases(), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_selection_equals_the_reference(tags: list[KnownTag], case: Case, sizes: list[int]) -> None:
    selection, asked = step_by_step(tags, case.rules, sizes)
    assert set(selection.selected) == reference(tags, case)
    assert selection == select_tags([tag.facts for tag in tags], case.rules, NOW)
    assert [choice.name for choice in selection.choices] == [tag.name for tag in tags]
    assert len(asked) == len(set(asked))
    assert bool(asked) <= bool(needs(case.rules))


@settings(max_examples=150, deadline=None)
@given(tag_lists, cases())
def test_every_dropped_tag_names_a_rule_that_drops_it(tags: list[KnownTag], case: Case) -> None:
    known = {tag.name: tag for tag in tags}
    selection, _ = step_by_step(tags, case.rules, [3])
    for choice in selection.choices:
        if choice.rule == "latest":
            assert case.rules.latest is not None
            by, count = case.rules.latest.by, case.rules.latest.count
            higher = [name for name in selection.selected if beats(known[name], known[choice.name], by)]
            assert place(known[choice.name], by) is None or len(higher) == count
        elif choice.rule is not None:
            assert choice.rule in droppers(known[choice.name], case)
        else:
            assert droppers(known[choice.name], case) == set()


@settings(deadline=None)
@given(tag_lists, cases())
def test_no_facts_are_wanted_that_cannot_matter(tags: list[KnownTag], case: Case) -> None:
    """With an order by name, no tag is asked for if enough higher ones pass."""
    latest = case.rules.latest
    if latest is None or latest.by == "created":
        return
    known = {tag.name: tag for tag in tags}
    selection, asked = step_by_step(tags, case.rules, [100])
    for name in asked:
        higher = [one for one in selection.selected if beats(known[one], known[name], latest.by)]
        assert len(higher) < latest.count
