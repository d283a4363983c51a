"""Globs match as the shell's do, and never backtrack."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mirror.oci.glob import Glob

PATTERNS = st.text(alphabet="aab*?[]!-1.", max_size=12)
TEXTS = st.text(alphabet="aab!-1.]", max_size=12)


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("*", " a 1.2.3", ""),
        ("1.*", "1. 1.2 1.2.3", "1 11.2 v1.2"),
        ("*-rc*", "1-rc1 -rc", "1rc1 RC 1-RC1"),
        ("a*a", "aa aba", "a ab"),
        ("?.?", "1.2", "1. 1.23 .2"),
        ("[0-9]*", "1 9x", "a"),
        ("[!0-9]*", "a .1", "1"),
        ("[^0-9]*", "a", "1"),
        ("v[12].[x-z]", "v1.x v2.z", "v3.x v1.a"),
        ("[]a]", "] a", "b"),
        ("[a-]", "a -", "b"),
        ("[-a]", "a -", "b"),
        ("a.c", "a.c", "abc"),
        ("", "", "a"),
    ],
)
def test_a_glob_matches_the_whole_text(glob: str, matching: str, others: str) -> None:
    parsed = Glob.parse(glob)
    assert [text for text in matching.split(" ") if not parsed.matches(text)] == []
    assert [text for text in others.split() if parsed.matches(text)] == []
    assert str(parsed) == glob


@settings(deadline=None)
@given(PATTERNS, TEXTS)
def test_globs_match_what_fnmatch_matches(pattern: str, text: str) -> None:
    try:
        parsed = Glob.parse(pattern)
    except ValueError:
        reject()
    assert parsed.matches(text) == fnmatchcase(text, pattern)


@pytest.mark.parametrize(
    ("glob", "mistake"),
    [("1.[0-9", "the '[' at character 3 is not closed"), ("[9-0]*", "the range at character 2 is in reverse")],
)
def test_a_mistake_is_named_with_its_position(glob: str, mistake: str) -> None:
    with pytest.raises(ValueError, match="It is not a glob") as refused:
        Glob.parse(glob)
    assert mistake in str(refused.value)


def test_a_glob_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most 1000 characters"):
        Glob.parse("*" * 1001)


@pytest.mark.parametrize("glob", ["*a*a*a*a*b", "*a" * 499 + "*b", "*[ab]" * 199 + "*c", "*?" * 400 + "x"])
def test_many_stars_are_tried_once_each(glob: str) -> None:
    """With backtracking, these would take longer than the universe exists. The timeout of tests would end them."""
    assert not Glob.parse(glob).matches("a" * 5000)
