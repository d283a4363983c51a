"""Which tags of a repository are mirrored: every tag is selected, or names the rule that dropped it. Pure, no I/O.

The rules apply in this order. The first one that drops a tag is named:

1. by the name alone: ``referrer``, ``allow``, ``deny``, ``semver``
2. by facts that cost requests: ``exclude_digests``, ``media_types``, ``since``, ``min_age``
3. ``latest``, among all tags that no other rule dropped

docs/reference/selection.md says what each rule means.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from mirror.errors import NoTagSelected, SelectionTooLarge, quoted
from mirror.oci.digest import Digest
from mirror.oci.referrer import REFERRER_TAG
from mirror.oci.version import Precedence, TagVersion, VersionRange
from mirror.records.rules import LatestTags, TagRules
from mirror.records.selections import Choice

Fact = Literal["digest", "media_type", "created", "first_seen"]
TagRuleName = Literal[
    "referrer", "allow", "deny", "semver", "exclude_digests", "media_types", "since", "min_age", "latest"
]
TAG_RULE_NAMES: Final[tuple[TagRuleName, ...]] = get_args(TagRuleName)
"""The rules that drop tags, in the order in which they apply."""
_TIME_RULES: Final = ("since", "min_age")
_OF_ANOTHER: Final = "It belongs to another image: a signature, an attestation or a list of referrers"
_RUNS: Final = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class TagFacts:
    """What is known of a tag beyond its name. None is unknown.

    ``created`` is what the image says. ``first_seen`` is when this mirror first saw the digest under the tag.
    """

    tag: str
    digest: Digest | None = None
    media_type: str | None = None
    created: datetime | None = None
    first_seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """All listed tags in the order of the listing, each with the rule that dropped it, or None, and the reason."""

    choices: tuple[Choice, ...]

    @property
    def selected(self) -> list[str]:
        return [choice.name for choice in self.choices if choice.rule is None]

    @property
    def dropped(self) -> dict[str, int]:
        """How many tags each rule dropped, in the order of the rules."""
        counts = Counter(choice.rule for choice in self.choices)
        return {rule: counts[rule] for rule in TAG_RULE_NAMES if counts[rule]}

    def check(self, source: str, rules: TagRules) -> None:
        """Raise SelectionTooLarge if there are more than ``max_tags``, or NoTagSelected if there are none.

        If ``since`` or ``min_age`` dropped the last tags, time may change that, and it is no error.
        """
        count = len(self.selected)
        if rules.max_tags is not None and count > rules.max_tags:
            raise SelectionTooLarge(source, count, "max_tags", rules.max_tags)
        dropped = self.dropped
        if not count and not any(rule in dropped for rule in _TIME_RULES):
            raise NoTagSelected(source, dropped)


class TagSelector:
    """Chooses tags as their names, and then their facts, become known.

    The caller adds the listed tags, page by page. Then it asks for the tags whose facts are needed until there are none
    left, and passes the facts of each::

        selector = TagSelector(rules, now)
        for page in pages:
            selector.add(page)
        while tags := selector.wanted(64):
            for facts in fetch(tags, needs(rules)):
                selector.decide(facts)
        selection = selector.result()

    If ``latest`` orders by the name, the facts are needed of the highest tags only: of as many as are still missing.
    """

    def __init__(self, rules: TagRules, now: datetime) -> None:
        self._rules = rules
        self._now = now
        self._needs = needs(rules)
        self._by_name = NameRules(rules)
        self._choices: dict[str, Choice | None] = {}
        self._ranked: list[str] | None = None
        self._asked = 0
        self._waiting: set[str] = set()
        self._passed: list[TagFacts] = []

    def add(self, tags: Iterable[str]) -> None:
        """Apply the rules about names to some listed tags. A tag that is listed twice counts once."""
        if self._ranked is not None:
            raise RuntimeError("the listing of the tags has ended")
        for tag in tags:
            if tag not in self._choices:
                self._choices[tag] = self._by_name.choice(tag)

    def wanted(self, limit: int) -> list[str]:
        """Return at most *limit* tags whose facts are needed next. None are needed if it returns no tag.

        It can return no tag because the facts of others are still missing. Then ask again when these were passed.
        """
        ranked = self._rank()
        latest = self._rules.latest
        if not self._needs:
            return []
        if latest and latest.by != "created":
            limit = min(limit, latest.count - len(self._passed) - len(self._waiting))
        batch = ranked[self._asked : self._asked + max(0, limit)]
        self._asked += len(batch)
        self._waiting.update(batch)
        return batch

    def decide(self, facts: TagFacts) -> None:
        """Apply the rules about facts to a tag that was wanted."""
        self._waiting.remove(facts.tag)
        choice = _choice_by_facts(facts, self._rules, self._now)
        if choice is None:
            self._passed.append(facts)
        else:
            self._choices[facts.tag] = choice

    def result(self) -> Selection:
        """Apply ``latest``, and return the choice for every tag. All facts that are wanted must have been passed."""
        ranked = self._rank()
        if self.wanted(1) or self._waiting:
            raise RuntimeError("facts of some tags are still missing")
        passed = self._passed if self._needs else [TagFacts(tag) for tag in ranked]
        latest = self._rules.latest
        if latest and latest.by == "created":
            passed = self._ranked_by_creation(passed, latest)
        for facts in passed[: latest.count if latest else None]:
            self._choices[facts.tag] = Choice(facts.tag, None, self._by_name.reason(facts.tag))
        below = f"It is not among the {latest.count} highest by '{latest.by}'" if latest else None
        choices = (choice or Choice(tag, "latest", below) for tag, choice in self._choices.items())
        return Selection(tuple(choices))

    def _rank(self) -> list[str]:
        """Return the tags that the rules about names left, in the order of ``latest`` if that needs no facts."""
        if self._ranked is None:
            left = [tag for tag, choice in self._choices.items() if choice is None]
            latest = self._rules.latest
            if latest is None or latest.by == "created":
                self._ranked = left
            else:
                self._ranked, unranked = rank_tags(left, latest.by)
                detail = f"It has no place in the order '{latest.by}': it shows no {_WANTED[latest.by]}"
                self._choices |= {tag: Choice(tag, "latest", detail) for tag in unranked}
        return self._ranked

    def _ranked_by_creation(self, passed: Sequence[TagFacts], latest: LatestTags) -> list[TagFacts]:
        for facts in passed:
            if facts.created is None:
                detail = f"It has no place in the order '{latest.by}': its time of creation is unknown"
                self._choices[facts.tag] = Choice(facts.tag, "latest", detail)
        times = {facts: facts.created for facts in sorted(passed, key=lambda facts: facts.tag) if facts.created}
        return sorted(times, key=lambda facts: times[facts], reverse=True)


def needs(rules: TagRules) -> frozenset[Fact]:
    """Return the facts that the rules need of the tags that remain after the rules about names."""
    found: set[Fact] = set()
    if rules.exclude_digests or rules.min_age:
        found.add("digest")
    if rules.media_types:
        found.add("media_type")
    if rules.since or (rules.latest and rules.latest.by == "created"):
        found.add("created")
    if rules.min_age:
        found.add("first_seen")
    return frozenset(found)


def select_tags(tags: Iterable[TagFacts], rules: TagRules, now: datetime) -> Selection:
    """Choose among tags whose facts are all known."""
    known = {facts.tag: facts for facts in tags}
    selector = TagSelector(rules, now)
    selector.add(known)
    while wanted := selector.wanted(len(known)):
        for tag in wanted:
            selector.decide(known[tag])
    return selector.result()


def rank_tags(tags: Iterable[str], by: Literal["semver", "lexical", "numeric"]) -> tuple[list[str], list[str]]:
    """Return the tags from the highest to the lowest, and those that have no place in the order.

    Of tags that are equal in the order, the one whose name comes first by code point is higher.
    """
    names = sorted(tags)
    if by == "lexical":
        return names[::-1], []
    keys: dict[str, Precedence | list[str | int]] = {}
    for tag in names:
        if by == "numeric":
            key = _numeric_key(tag)
            if len(key) > 1:
                keys[tag] = key
        elif version := TagVersion.parse(tag):
            keys[tag] = version.precedence
    ranked = sorted(keys, key=keys.__getitem__, reverse=True)
    return ranked, [tag for tag in names if tag not in keys]


_WANTED: Final = {"semver": "version", "numeric": "number", "lexical": "name"}


def _numeric_key(tag: str) -> list[str | int]:
    """Return the runs of other characters and of digits, in turn. Runs of digits compare as numbers."""
    return [int(run) if place % 2 else run for place, run in enumerate(_RUNS.split(tag))]


class NameRules:
    """The rules about names, with patterns, range and reasons made once. They never change their mind about a tag."""

    def __init__(self, rules: TagRules) -> None:
        self._range = VersionRange.parse(rules.semver) if rules.semver else None
        others = [f"semver {quoted(rules.semver)}"] if rules.semver else []
        others += [f"latest {rules.latest.count} by '{rules.latest.by}'"] if rules.latest else []
        self._allow = [(pattern, f"By {', '.join([f'allow {pattern}', *others])}") for pattern in rules.allow]
        self._deny = [(pattern, f"'deny' has {pattern}") for pattern in rules.deny]
        self._usual_reason = f"By {', '.join(others)}" if others else "No rule drops it"
        self._referrers = [pattern for pattern in rules.allow if re.search(r"sha(256|512)\\?-", pattern.text)]

    def reason(self, tag: str) -> str:
        """Return which rules select a tag that none drops."""
        return next((reason for pattern, reason in self._allow if pattern.matches(tag)), self._usual_reason)

    def choice(self, tag: str) -> Choice | None:
        """Return the choice that drops *tag*, or None."""
        if REFERRER_TAG.fullmatch(tag) and not any(pattern.matches(tag) for pattern in self._referrers):
            return Choice(tag, "referrer", _OF_ANOTHER)
        if self._allow and not any(pattern.matches(tag) for pattern, _ in self._allow):
            return Choice(tag, "allow", "No pattern of 'allow' matches it")
        for pattern, detail in self._deny:
            if pattern.matches(tag):
                return Choice(tag, "deny", detail)
        if self._range is None:
            return None
        version = TagVersion.parse(tag)
        refusal = self._range.refusal(version) if version else "It shows no version"
        return Choice(tag, "semver", refusal) if refusal else None


def _choice_by_facts(facts: TagFacts, rules: TagRules, now: datetime) -> Choice | None:
    """Return the choice that drops a tag because of its facts, or None. A fact that is needed must be known."""
    problems: dict[TagRuleName, str | None] = {
        "exclude_digests": _digest_problem(facts, rules),
        "media_types": _media_type_problem(facts, rules),
        "since": _creation_problem(facts, rules),
        "min_age": _age_problem(facts, rules, now),
    }
    return next((Choice(facts.tag, rule, detail) for rule, detail in problems.items() if detail), None)


def _digest_problem(facts: TagFacts, rules: TagRules) -> str | None:
    if not rules.exclude_digests:
        return None
    if facts.digest is None:
        return "Its digest is unknown"
    return f"'exclude_digests' has its digest {facts.digest}" if facts.digest in rules.exclude_digests else None


def _media_type_problem(facts: TagFacts, rules: TagRules) -> str | None:
    if not rules.media_types or facts.media_type in rules.media_types:
        return None
    if facts.media_type is None:
        return "Its media type is unknown"
    return f"'media_types' does not have its type {facts.media_type}"


def _creation_problem(facts: TagFacts, rules: TagRules) -> str | None:
    if rules.since is None:
        return None
    if facts.created is None:
        return "Its time of creation is unknown"
    if facts.created >= rules.since:
        return None
    return f"It was created at {_shown(facts.created)}, before {_shown(rules.since)}"


def _age_problem(facts: TagFacts, rules: TagRules, now: datetime) -> str | None:
    if not rules.min_age:
        return None
    first_seen = facts.first_seen or now  # a digest that was never seen before is seen now
    old_enough = first_seen + rules.min_age
    if now >= old_enough:
        return None
    return f"Its digest was first seen at {_shown(first_seen)}, and is old enough at {_shown(old_enough)}"


def _shown(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
