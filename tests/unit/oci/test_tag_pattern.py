"""Patterns for tags: RE2 and nothing else runs an expression of a user, and mistakes are named with their position."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import RegexUnavailable
from mirror.oci import tag_pattern
from mirror.oci.tag_pattern import TagPattern, TagPatternKind, compile_regex


@pytest.fixture
def no_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_pattern, "re2", None)
    compile_regex.cache_clear()


@pytest.mark.parametrize(
    ("kind", "text", "matching", "others"),
    [
        ("exact", "1.2", "1.2", "1.2.3 1x2 v1.2"),
        ("glob", "1.*", "1. 1.2", "1 v1.2"),
        ("regex", r"1\.2", "1.2", "1.2.3 1x2 v1.2"),
        ("regex", r"^v?[0-9]+(\.[0-9]+)*$", "1 v1.2.3", "1.2-rc1"),
        ("regex", r"a|b.*", "a b bc", "ac"),
        ("regex", r"(?i)LATEST", "latest Latest", "late"),
    ],
)
def test_a_pattern_matches_the_whole_tag(kind: TagPatternKind, text: str, matching: str, others: str) -> None:
    pattern = TagPattern.parse(kind, text)
    assert [tag for tag in matching.split() if not pattern.matches(tag)] == []
    assert [tag for tag in others.split() if pattern.matches(tag)] == []
    assert str(pattern) == f"{kind} {text}"


def test_nested_repetition_takes_linear_time() -> None:
    """Python's `re` needs 2 to the power of 127 steps for this. The timeout of tests would end it."""
    tag = "a" * 127 + "-"
    pattern = TagPattern.parse("regex", "(a+)+$")
    assert not pattern.matches(tag)
    assert not pattern.matches(tag * 1000)
    assert not isinstance(compile_regex("(a+)+$"), re.Pattern)
    assert type(compile_regex("(a+)+$")).__module__ == "re2"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(?=a)b", "at character 1, invalid perl operator '(?='. RE2 has no lookaround"),
        (r"(?i)\(?=a(?!b)", "at character 10, invalid perl operator '(?!'"),
        ("(?<=a)b", "at character 1, invalid perl operator '(?<='"),
        ("a(?>b)", "at character 2, invalid perl operator '(?>'. RE2 has no lookaround and no atomic groups"),
        (r"(a)\1", r"at character 4, invalid escape sequence '\1'. RE2 has no backreferences"),
        (r"a\Z", r"at character 2, invalid escape sequence '\Z'. RE2 has no backreferences, and writes \z for the end"),
        ("x(y{30}){40}z", "at character 9, invalid repetition size '{40}'"),
        ("a++", "at character 2, bad repetition operator '++'. RE2 has no possessive repetition"),
        ("a|*b", "at character 3, no argument for repetition operator '*'"),
        ("(a)(b", "at character 5, missing )"),
        ("(a)b)", "at character 5, unexpected )"),
        (r"[b]1\.[b", "at character 7, missing ]"),
        (r"\da" + "\\", "at character 4, trailing \\"),
        (r".*\p{Foo}.*", r"at character 3, invalid character class range '\p{Foo}'"),
        ("x{1000}" * 100, "needs more than 1 MiB. Write a shorter expression"),
    ],
)
def test_what_re2_refuses_is_explained_with_its_position(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="It is not a regular expression of RE2: ") as refused:
        TagPattern.parse("regex", text)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("regex", "a" * 1001, "at most 1000 characters"),
        ("regex", "aé", "character 2 is not ASCII"),
        ("regex", "a\ud800", "character 2 is not ASCII"),
        ("glob", "1.[0-9", "the '[' at character 3 is not closed"),
        ("glob", "1.{2,3}", "character 3 is a brace. Write one glob for each alternative"),
        ("glob", "a/*", "no tag has the character '/' at position 2"),
        ("exact", "a b", "'a b' is not a valid tag, so no tag is equal to it"),
        ("exact", "1.2*", "is not a valid tag"),
    ],
)
def test_a_pattern_that_can_match_no_tag_is_refused(kind: TagPatternKind, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        TagPattern.parse(kind, text)


@settings(deadline=None)
@given(st.text(alphabet="ab()[]{}|*+?\\.^$-<=!:1P", max_size=12) | st.text(max_size=12))
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    try:
        assert compile_regex(text).groups >= 0
    except ValueError as refused:
        assert str(refused).startswith("It is not a regular expression")  # noqa: PT017 - any text may also be one


@pytest.mark.usefixtures("no_re2")
def test_without_re2_an_expression_is_refused_and_other_patterns_work() -> None:
    with pytest.raises(RegexUnavailable) as refused:
        TagPattern.parse("regex", "a without re2")
    assert "google-re2" in refused.value.hint
    assert TagPattern.parse("glob", "1.*").matches("1.2")
    assert TagPattern.parse("exact", "1.2").matches("1.2")


def test_the_module_loads_where_re2_is_not_installed() -> None:
    program = (
        "import sys; sys.modules['re2'] = None\n"
        "from mirror.errors import RegexUnavailable\n"
        "from mirror.oci.tag_pattern import TagPattern\n"
        "try: TagPattern.parse('regex', 'a')\n"
        "except RegexUnavailable as error: print(error.code)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "REGEX_UNAVAILABLE\n"


def test_an_expression_is_compiled_once() -> None:
    assert compile_regex("once") is compile_regex("once")
