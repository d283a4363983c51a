"""Which tags each rule selects, and what is said about the others."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.copying.selection import TAG_RULE_NAMES, Selection, TagFacts, TagSelector, needs, rank_tags, select_tags
from mirror.errors import NoTagSelected, SelectionTooLarge
from mirror.oci import version
from mirror.oci.digest import Digest
from mirror.records.rule_schemas import TAG_RULES
from mirror.records.rules import TagRules
from mirror.records.selections import Choice
from tests.support.selection_table import (
    INDEX,
    MANIFEST,
    OF_ONE_PLATFORM,
    ROWS,
    TAGS,
    Row,
    created,
    first_seen_before,
    number_of,
)

NOW: Final = datetime(2024, 11, 1, tzinfo=UTC)
PAGE: Final = Path(__file__).parents[3] / "docs" / "reference" / "selection.md"
DIGESTS: Final = {tag: Digest.of(str(number_of(tag)).encode()) for tag in TAGS}
HOUR: Final = timedelta(hours=1)
HEX: Final = "0123456789abcdef" * 4


def rules_of(**rules: Any) -> TagRules:
    """Read rules as a request has them."""
    loaded: TagRules = TAG_RULES.load(rules)
    return loaded


def facts_of(tag: str) -> TagFacts:
    """Return the facts of a tag of the table."""
    media_type = MANIFEST if tag in OF_ONE_PLATFORM else INDEX
    return TagFacts(tag, DIGESTS[tag], media_type, created(tag), NOW - first_seen_before(tag))


def select(*tags: str | TagFacts, **rules: Any) -> Selection:
    return select_tags((TagFacts(tag) if isinstance(tag, str) else tag for tag in tags), rules_of(**rules), NOW)


def choice_for(tag: str | TagFacts, **rules: Any) -> Choice:
    """Return the choice for a tag that is the only one."""
    [choice] = select(tag, **rules).choices
    return choice


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_each_row_of_the_table(row: Row) -> None:
    rules = rules_of(**row.with_digests({tag: str(digest) for tag, digest in DIGESTS.items()}))
    selection = select_tags(map(facts_of, TAGS), rules, NOW)
    assert selection.selected == sorted(row.selected)
    assert [choice.name for choice in selection.choices] == list(TAGS)
    assert all(choice.detail for choice in selection.choices)


def test_the_table_has_forty_tags_of_which_all_rules_have_a_row() -> None:
    assert len(TAGS) == 40
    used = {rule for row in ROWS for rule in row.rules} - {"latest"}
    orders = {row.rules["latest"].get("by", "semver") for row in ROWS if "latest" in row.rules}
    assert used == set(TAG_RULE_NAMES) - {"referrer", "latest"}
    assert orders == {"semver", "created", "lexical", "numeric"}


def test_the_reference_page_shows_the_table() -> None:
    """Each row ends in the id of its test. ``all but`` comes before the tags that are not selected."""
    shown = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        if len(cells) == 4 and re.fullmatch(r"`\{.*\}`", cells[1]):
            rules = json.loads(cells[1].strip("`").replace("\\|", "|"))
            tags = set(re.findall(r"`([^`]+)`", cells[2]))
            shown[cells[3].strip("`")] = (rules, set(TAGS) - tags if cells[2].startswith("all but") else tags)
    assert shown == {row.id: (row.rules, set(row.selected)) for row in ROWS}


def test_the_reference_page_has_the_grammar_of_the_code() -> None:
    grammar = re.findall(r"^    (\w+ += .* \.)$", version.__doc__ or "", re.MULTILINE)
    assert len(grammar) == 9
    assert "```ebnf\n" + "\n".join(grammar) + "\n```" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tag", "rules", "rule", "detail"),
    [
        (f"sha256-{HEX}", {}, "referrer", "It belongs to another image"),
        (f"sha512-{HEX}.att", {"allow": [{"glob": "*"}]}, "referrer", "It belongs to another image"),
        ("1", {"allow": [{"exact": "2"}]}, "allow", "No pattern of 'allow' matches it"),
        ("1-rc1", {"deny": [{"exact": "2"}, {"glob": "*-rc*"}]}, "deny", "'deny' has glob *-rc*"),
        ("latest", {"semver": "*"}, "semver", "It shows no version"),
        ("3", {"semver": "<2"}, "semver", "3.0.0 is not in '<2'"),
        ("latest", {"latest": {"count": 1}}, "latest", "no place in the order 'semver': it shows no version"),
        (
            "v",
            {"latest": {"count": 1, "by": "numeric"}},
            "latest",
            "no place in the order 'numeric': it shows no number",
        ),
        ("v", {"latest": {"count": 1, "by": "created"}}, "latest", "its time of creation is unknown"),
        ("v", {"since": "2024-10-01"}, "since", "Its time of creation is unknown"),
        (
            TagFacts("v", created=datetime(1970, 1, 1, tzinfo=UTC)),
            {"since": "2024-10-01T02:00:00+02:00"},
            "since",
            "It was created at 1970-01-01T00:00:00Z, before 2024-10-01T00:00:00Z",
        ),
        ("v", {"exclude_digests": [f"sha256:{HEX}"]}, "exclude_digests", "Its digest is unknown"),
        (
            TagFacts("v", Digest("sha256", HEX)),
            {"exclude_digests": [f"sha256:{HEX}"]},
            "exclude_digests",
            f"'exclude_digests' has its digest sha256:{HEX}",
        ),
        ("v", {"media_types": [INDEX]}, "media_types", "Its media type is unknown"),
        (
            TagFacts("v", media_type=MANIFEST),
            {"media_types": [INDEX]},
            "media_types",
            f"'media_types' does not have its type {MANIFEST}",
        ),
        (
            TagFacts("v", first_seen=NOW - HOUR),
            {"min_age": "3h"},
            "min_age",
            "first seen at 2024-10-31T23:00:00Z, and is old enough at 2024-11-01T02:00:00Z",
        ),
    ],
)
def test_a_dropped_tag_names_the_rule_and_says_why(
    tag: str | TagFacts, rules: dict[str, Any], rule: str, detail: str
) -> None:
    choice = choice_for(tag, **rules)
    assert choice.rule == rule
    assert detail in (choice.detail or "")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({}, "No rule drops it"),
        ({"deny": [{"exact": "2"}], "min_age": "0s"}, "No rule drops it"),
        (
            {"allow": [{"exact": "2"}, {"glob": "1*"}, {"glob": "*"}], "semver": "1.x", "latest": {"count": 2}},
            "By allow glob 1*, semver '1.x', latest 2 by 'semver'",
        ),
    ],
)
def test_a_selected_tag_says_by_which_rules(rules: dict[str, Any], reason: str) -> None:
    assert choice_for("1.2", **rules) == Choice("1.2", None, reason)


@pytest.mark.parametrize(
    "rules",
    [{"allow": [{"regex": "sha256-.*"}]}, {"allow": [{"glob": "sha256-*"}]}, {"allow": [{"exact": f"sha256-{HEX}"}]}],
)
def test_a_referrer_tag_is_selected_if_a_pattern_names_such_tags(rules: dict[str, Any]) -> None:
    assert choice_for(f"sha256-{HEX}", **rules).rule is None


@pytest.mark.parametrize("tag", ["sha256-abc", f"sha1-{HEX}", f"x-sha256-{HEX}", "sha256"])
def test_a_tag_that_only_resembles_a_referrer_tag_is_selected(tag: str) -> None:
    assert choice_for(tag).rule is None


def test_the_first_rule_that_drops_a_tag_is_named() -> None:
    unknown: dict[str, Any] = {
        "allow": [{"exact": "x"}],
        "deny": [{"glob": "*"}],
        "semver": "2",
        "exclude_digests": [f"sha256:{HEX}"],
        "media_types": [INDEX],
        "since": "2024-10-01",
        "min_age": "1h",
        "latest": {"count": 1, "by": "created"},
    }
    named = []
    while unknown:
        named.append(choice_for("1", **unknown).rule)
        del unknown[str(named[-1])]
    assert named == [name for name in TAG_RULE_NAMES if name != "referrer"]


class TestMinAge:
    """The age counts from when the mirror first saw the digest, because a publisher may set ``created`` as he likes."""

    def test_created_does_not_count(self) -> None:
        old = TagFacts("1", created=datetime(2000, 1, 1, tzinfo=UTC), first_seen=NOW - HOUR)
        assert choice_for(old, min_age="2h").rule == "min_age"
        assert choice_for(old, min_age="1h").rule is None

    def test_a_digest_that_was_never_seen_before_is_seen_now(self) -> None:
        assert choice_for("1", min_age="1s").rule == "min_age"
        assert choice_for("1", min_age="0s").rule is None

    def test_a_time_in_the_future_is_not_old_enough(self) -> None:
        assert choice_for(TagFacts("1", first_seen=NOW + HOUR), min_age="1s").rule == "min_age"


class TestOrders:
    def test_of_equal_tags_the_first_by_code_point_is_higher(self) -> None:
        assert rank_tags(["1.2.0", "v1.2", "1.2", "1.2-alpine"], "semver") == (
            ["1.2", "1.2-alpine", "1.2.0", "v1.2"],
            [],
        )
        assert rank_tags(["a02", "a2", "a002"], "numeric") == (["a002", "a02", "a2"], [])

    def test_of_images_of_the_same_time_the_first_by_code_point_is_higher(self) -> None:
        tags = [TagFacts(tag, created=NOW) for tag in ("latest", "v3", "3")]
        assert select(*tags, latest={"count": 1, "by": "created"}).selected == ["3"]

    def test_semver_is_by_precedence(self) -> None:
        tags = ["1.10.0", "1.9", "1.10.0-rc10", "1.10.0-rc9", "x", "1.10.0.1"]
        assert rank_tags(tags, "semver") == (["1.10.0.1", "1.10.0", "1.10.0-rc10", "1.10.0-rc9", "1.9"], ["x"])

    def test_lexical_is_by_code_point(self) -> None:
        assert rank_tags(["10", "9", "a", "B", "_"], "lexical") == (["a", "_", "B", "9", "10"], [])

    def test_numeric_compares_runs_of_digits_as_numbers(self) -> None:
        tags = ["b10", "b9", "b9-2", "b9-10", "10", "9", "a11", "main"]
        assert rank_tags(tags, "numeric") == (["b10", "b9-10", "b9-2", "b9", "a11", "10", "9"], ["main"])


class TestRequests:
    """Facts cost requests. Those of a tag are wanted only if they can matter."""

    @pytest.mark.parametrize(
        ("rules", "facts"),
        [
            ({}, set()),
            ({"semver": "*", "allow": [{"glob": "*"}], "deny": [{"glob": "x"}], "max_tags": 1, "max_bytes": 1}, set()),
            ({"latest": {"count": 1, "by": "numeric"}}, set()),
            ({"latest": {"count": 1, "by": "created"}}, {"created"}),
            ({"since": "2024-01-01"}, {"created"}),
            ({"exclude_digests": [f"sha256:{HEX}"]}, {"digest"}),
            ({"min_age": "1h"}, {"digest", "first_seen"}),
            ({"min_age": "0s"}, set()),
            ({"media_types": [INDEX]}, {"media_type"}),
        ],
    )
    def test_rules_say_which_facts_they_need(self, rules: dict[str, Any], facts: set[str]) -> None:
        assert needs(rules_of(**rules)) == facts

    def test_no_facts_are_wanted_of_tags_that_names_drop(self) -> None:
        selector = TagSelector(rules_of(deny=[{"exact": "1"}], min_age="1h"), NOW)
        selector.add(["1", "2", "3"])
        assert selector.wanted(1) == ["2"]
        assert selector.wanted(9) == ["3"]
        assert selector.wanted(9) == []

    def test_facts_are_wanted_from_the_highest_tag_until_enough_remain(self) -> None:
        selector = TagSelector(rules_of(latest={"count": 2}, min_age="1h"), NOW)
        selector.add(["1", "2", "3"])
        selector.add(["4", "5", "latest"])
        old = NOW - HOUR
        assert selector.wanted(9) == ["5", "4"]
        assert selector.wanted(9) == []
        selector.decide(TagFacts("4", first_seen=old))
        selector.decide(TagFacts("5", first_seen=NOW))
        assert selector.wanted(9) == ["3"]
        selector.decide(TagFacts("3", first_seen=old))
        assert selector.wanted(9) == []
        selection = selector.result()
        assert selection.selected == ["3", "4"]
        assert selection.dropped == {"min_age": 1, "latest": 3}

    def test_latest_by_created_wants_the_facts_of_all(self) -> None:
        selector = TagSelector(rules_of(latest={"count": 1, "by": "created"}), NOW)
        selector.add("123")
        assert selector.wanted(9) == ["1", "2", "3"]

    def test_a_result_needs_all_facts_that_are_wanted(self) -> None:
        selector = TagSelector(rules_of(min_age="1h"), NOW)
        selector.add(["1"])
        with pytest.raises(RuntimeError, match="facts of some tags are still missing"):
            selector.result()

    def test_no_tag_is_added_after_the_ranking(self) -> None:
        selector = TagSelector(rules_of(), NOW)
        selector.wanted(1)
        with pytest.raises(RuntimeError, match="the listing of the tags has ended"):
            selector.add(["1"])


def test_a_tag_that_is_listed_twice_counts_once() -> None:
    selector = TagSelector(rules_of(), NOW)
    selector.add(["1", "2"])
    selector.add(["2", "3"])
    assert selector.result().selected == ["1", "2", "3"]


class TestRefusals:
    def test_more_than_max_tags_are_refused_with_the_figures(self) -> None:
        selection = select("1", "2", "3")
        selection.check("docker.io/a/b", rules_of(max_tags=3))
        with pytest.raises(SelectionTooLarge) as refused:
            selection.check("docker.io/a/b", rules_of(max_tags=2))
        assert refused.value.message == "The selection of 'docker.io/a/b' has 3 tags, but 'max_tags' is 2"

    def test_bytes_have_the_same_refusal(self) -> None:
        refused = SelectionTooLarge("docker.io/a/b", 2048, "max_bytes", 1024)
        assert refused.message == "The selection of 'docker.io/a/b' has 2048 bytes to copy, but 'max_bytes' is 1024"

    def test_no_selected_tag_is_refused_with_the_figures_of_each_rule(self) -> None:
        rules = {"deny": [{"exact": "1"}], "semver": ">9"}
        with pytest.raises(NoTagSelected) as refused:
            select("1", "2", "3", **rules).check("docker.io/a/b", rules_of(**rules))
        assert refused.value.message == (
            "No tag of 'docker.io/a/b' is selected: of 3 tags, 'deny' dropped 1, 'semver' dropped 2"
        )

    def test_a_repository_without_tags_is_refused(self) -> None:
        with pytest.raises(NoTagSelected, match="has no tags"):
            select().check("docker.io/a/b", rules_of())

    @pytest.mark.parametrize("rules", [{"min_age": "1h"}, {"since": "2030-01-01"}])
    def test_time_may_bring_the_last_tags(self, rules: dict[str, Any]) -> None:
        rules = {**rules, "deny": [{"exact": "1"}]}
        select("1", "2", **rules).check("docker.io/a/b", rules_of(**rules))
