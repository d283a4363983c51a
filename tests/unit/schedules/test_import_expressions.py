"""What Go tools write becomes the mirror's form, with the same meaning."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.tag_pattern import TagPattern
from mirror.oci.version import TagVersion, VersionRange
from mirror.schedules.importers.expressions import (
    literal_text,
    read_cron,
    read_duration,
    tag_pattern,
    whole_match,
)
from mirror.schedules.importers.read import read_import

TAGS = ["3", "3.1", "13", "30", "4", "14", "edge", "edge-2", "my-edge", "v1.2", "v1.2-rc1", "latest", "a]b", "x|y"]
REGEXES = st.lists(
    st.sampled_from(
        ["3", "1", "edge", ".", ".*", "|", "(3|4)", "[|]", "[^]|]", "\\|", "^", "$", "v", "-", "a", "[1-4]+"]
    ),
    min_size=1,
    max_size=5,
).map("".join)


def compiled(regex: str) -> re.Pattern[str] | None:
    try:
        return re.compile(regex)
    except re.error:
        return None


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("60m", "1h"),
        ("1h30m", "90m"),
        ("90s", "90s"),
        ("1.5h", "90m"),
        ("168h", "168h"),
        ("500ms500ms", "1s"),
        ("1000000µs", "1s"),
        ("0", ""),
        ("0s", ""),
        ("0.0h", ""),
    ],
)
def test_a_duration_keeps_its_length(text: str, duration: str) -> None:
    assert read_duration(text) == duration


@pytest.mark.parametrize("text", ["", "1", "h", "1d", "-1h", "1h ", "1h30", "500ms", "1.5s", "1e3s", "999999h", "٣h"])
def test_another_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|whole seconds"):
        read_duration(text)


@pytest.mark.parametrize(
    ("text", "timetable"),
    [
        ("15 3 * * *", {"cron": "15 3 * * *"}),
        ("  15   3 * * MON-FRI ", {"cron": "15 3 * * MON-FRI"}),
        ("0 6 ? * 1", {"cron": "0 6 * * 1"}),
        ("0 6 ?/2 * ?", {"cron": "0 6 */2 * *"}),
        ("CRON_TZ=Europe/Paris 30 2 * * *", {"cron": "30 2 * * *", "time_zone": "Europe/Paris"}),
        ("TZ=Asia/Kolkata @daily", {"cron": "@daily", "time_zone": "Asia/Kolkata"}),
        ("@annually", {"cron": "@annually"}),
        ("@every 1h30m", {"every": "90m"}),
    ],
)
def test_a_cron_expression_keeps_its_times(text: str, timetable: dict[str, str]) -> None:
    assert read_cron(text) == timetable


@pytest.mark.parametrize(
    "text",
    [
        *("* * * *", "0 0 2 * * *", "@reboot", "@every", "@every 0s", "@every 30s", "@every soon", "TZ=UTC"),
        *("TZ=Europe/Nowhere 0 2 * * *", "0 2 * * 8", "0 2 30 2 *"),
    ],
)
def test_a_schedule_of_regsync_without_times_is_refused(text: str) -> None:
    entry = {"source": "a", "target": "b.example/a", "type": "image", "schedule": text}
    found = read_import("regsync", json.dumps({"sync": [entry]}))
    assert [one.path for one in found.refused] == ["sync[0].schedule"]
    assert found.schedules == ()


@given(REGEXES)
def test_a_search_becomes_a_whole_match(regex: str) -> None:
    """The oracle is Python's search, which Go's MatchString is for such expressions."""
    pattern = compiled(regex)
    if pattern is None:
        return
    whole = TagPattern.parse("regex", whole_match(regex))
    assert [tag for tag in TAGS if whole.matches(tag)] == [tag for tag in TAGS if pattern.search(tag)]


@given(REGEXES)
def test_an_anchored_expression_keeps_its_meaning(regex: str) -> None:
    pattern = compiled(f"^{regex}$")
    if pattern is None or compiled(regex) is None:
        return
    [(kind, text)] = tag_pattern(regex).items()
    found = TagPattern.parse("exact" if kind == "exact" else "regex", text)
    assert [tag for tag in TAGS if found.matches(tag)] == [tag for tag in TAGS if pattern.search(tag)]


@pytest.mark.parametrize(
    ("regex", "whole"),
    [
        ("alpine", ".*alpine.*"),
        ("^v1$", "^v1$"),
        ("^v1", "^v1.*"),
        ("v1$", ".*v1$"),
        (r"v1\$", r".*v1\$.*"),
        (r"v1\\$", r".*v1\\$"),
        ("a|b", ".*(?:a|b).*"),
        ("(a|b)", ".*(a|b).*"),
        (r"\Qa|b\E", r".*(?:\Qa|b\E).*"),
        ("?a", ".*(?:?a).*"),
    ],
)
def test_a_whole_match_stays_readable(regex: str, whole: str) -> None:
    assert whole_match(regex) == whole


@pytest.mark.parametrize(
    ("regex", "literal"),
    [
        ("team/app", "team/app"),
        (r"docker\.io/library/nginx", "docker.io/library/nginx"),
        ("docker.io/library/nginx", "docker.io/library/nginx"),
        ("^a$", "a"),
        ("a.*", None),
        ("a.+", None),
        ("a.", None),
        ("a?", None),
        ("[ab]", None),
        ("(a)", None),
        ("", None),
    ],
)
def test_an_expression_for_one_text_is_that_text(regex: str, literal: str | None) -> None:
    assert literal_text(regex) == literal


@pytest.mark.parametrize(
    ("constraint", "inside", "outside"),
    [
        (">=1.2 <2", "1.2 1.2.0 v1.9.9 1.5.0-alpine 1.5.0-rc1 1.3.0.4", "1.1.9 2 2.0.0 latest"),
        ("1.2", "1.2 1.2.0 v1.2", "1.2.1 1.3"),
        ("=2", "2 2.0 2.0.0", "2.1 2.0.1"),
        (">1.2", "1.2.1 1.3", "1.2 1.2.0 1.1"),
        ("<=1.2", "1.2 1.1.9", "1.2.1 1.3"),
        ("~1", "1 1.0.5", "1.1 2"),
        ("~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
        ("^1.2", "1.2 1.9", "1.1 2.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        (">=v2", "v2 v3", "v1 a1"),
    ],
)
def test_a_range_of_regsync_keeps_its_meaning(constraint: str, inside: str, outside: str) -> None:
    """The cases follow `internal/semver` of regclient: numbers are compared, and every suffix is allowed."""
    entry = f"{{source: a, target: b.example/a, type: repository, tags: {{semverRange: ['{constraint}']}}}}"
    [schedule] = read_import("regsync", f"sync: [{entry}]").schedules
    allowed = VersionRange.parse(schedule["job"]["tags"]["semver"])

    def is_allowed(tag: str) -> bool:
        version = TagVersion.parse(tag)
        return version is not None and allowed.allows(version)

    assert [tag for tag in inside.split() if not is_allowed(tag)] == []
    assert [tag for tag in outside.split() if is_allowed(tag)] == []
