"""``WWW-Authenticate`` in valid and invalid forms."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.registry import auth
from mirror.registry.auth import LONGEST_CHALLENGE, Challenge, is_blank, parse_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull"'


def test_docker_hubs_challenge_is_read() -> None:
    assert parse_challenges(HUB) == [
        Challenge(
            "bearer",
            {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:library/redis:pull",
            },
        )
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('BASIC Realm="Registry"', [("basic", {"realm": "Registry"})]),
        (
            'Basic realm="a", Bearer realm="b",service="c"',
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c"})],
        ),
        ('Bearer realm="b" , service = "c"', [("bearer", {"realm": "b", "service": "c"})]),
        ("Bearer realm=https://b/token,service=c", [("bearer", {"realm": "https://b/token", "service": "c"})]),
        (
            'Bearer realm="with, comma",error="invalid_token"',
            [("bearer", {"realm": "with, comma", "error": "invalid_token"})],
        ),
        (r'Basic realm="a \"quoted\" word"', [("basic", {"realm": 'a "quoted" word'})]),
        ('Negotiate, Basic realm="a"', [("negotiate", {}), ("basic", {"realm": "a"})]),
        ('Basic realm="never closed', [("basic", {})]),
        ('"nonsense"', []),
        ('"nonsense", Basic realm="a"', [("basic", {"realm": "a"})]),
        ('=, =="=, Basic realm="a"', [("basic", {"realm": "a"})]),
        ('realm="of no scheme", Basic', [("basic", {})]),
        ('Bearer realm="a",service="never closed', [("bearer", {"realm": "a"})]),
        ('BEARER REALM="a",Service=b', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm=,service="b"', [("bearer", {"realm": "", "service": "b"})]),
        ('Bearer realm="",service="b"', [("bearer", {"realm": "", "service": "b"})]),
        ('Bearer realm="a",realm="b"', [("bearer", {"realm": "b"})]),
        ('Bearer realm\t=\t"a"\t,\tservice="b"', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a";service="b"', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a" service="b"', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a"service="b"', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a" Basic realm="b"', [("bearer", {"realm": "a"}), ("basic", {"realm": "b"})]),
        (r'Bearer realm="a\\",service="b\,c"', [("bearer", {"realm": "a\\", "service": "b,c"})]),
        ("Negotiate a87421/000492aa+874==, Basic", [("negotiate", {}), ("basic", {})]),
        ("Negotiate abcdef, Basic", [("negotiate", {}), ("basic", {})]),
        (",, ,Basic ,", [("basic", {})]),
        (f'Basic realm="{"a" * 9000}"', []),
    ],
)
def test_challenges_are_read_in_their_order(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges(header)] == expected


def test_each_line_of_the_header_is_read_by_itself() -> None:
    lines = ['Digest realm="never closed', 'Bearer realm="b"', "", "Basic"]
    assert [c.scheme for c in parse_challenges(*lines)] == ["digest", "bearer", "basic"]
    assert parse_challenges(*[f'Basic realm="{"a" * 4000}"'] * 3) == []


def test_a_header_that_is_absent_or_blank_is_blank() -> None:
    assert is_blank([])
    assert is_blank(["", " "])
    assert not is_blank(["", "Negotiate"])


@given(st.text(st.characters(max_codepoint=255), max_size=300))
def test_any_header_is_parsed_without_an_error(header: str) -> None:
    parse_challenges(header)


@given(st.lists(st.sampled_from(["Bearer", " ", ",", "=", '"', "\\", "realm", "a"]), max_size=60).map("".join))
def test_random_parts_of_the_grammar_are_parsed_without_an_error(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z]{1,8}", fullmatch=True),
            st.dictionaries(
                st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.text(st.characters(max_codepoint=255)), min_size=1
            ),
        ),
        max_size=4,
    )
)
def test_challenges_written_by_the_grammar_are_parsed_back(written: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(f"{s} " + ",".join(f"{n}={quoted(v)}" for n, v in p.items()) for s, p in written)
    if len(header) <= LONGEST_CHALLENGE:
        assert [(c.scheme, c.parameters) for c in parse_challenges(header)] == [(s.lower(), p) for s, p in written]


_PIECES = st.sampled_from(
    ["Bearer", "a", "=", '"', "\\", " ", "\t", ",", ";", "realm", "é", "a=", 'a="', '\\"', " a", ",a", "  ,", "=="]
)


@settings(deadline=None, max_examples=50)
@given(st.lists(_PIECES, min_size=1, max_size=5).map("".join), st.integers(1, 100))
def test_reading_takes_steps_in_proportion_to_the_length(piece: str, times: int) -> None:
    """A repeated piece would show a parser that goes back again and again."""
    header = (piece * times)[:LONGEST_CHALLENGE]
    assert _steps(header) <= 60 * len(header) + 100


@pytest.mark.parametrize("piece", ["a ", "a", "a=", 'a="', '\\"', 'a="\\', "= ", " ,", 'a="b",', "Basic a=b "])
def test_the_longest_header_takes_no_more_steps_for_each_character_than_a_short_one(piece: str) -> None:
    short, long = (
        (piece * LONGEST_CHALLENGE)[: LONGEST_CHALLENGE // 16],
        (piece * LONGEST_CHALLENGE)[:LONGEST_CHALLENGE],
    )
    assert _steps(long) <= 16 * _steps(short) + 100


def _steps(header: str) -> int:
    """Count the lines of the parser that are executed.

    Each looks at one character, because the parser uses no regular expression.
    """
    assert not hasattr(auth, "re")
    steps = 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return count if frame.f_code.co_filename == auth.__file__ else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        parse_challenges(header)
    finally:
        sys.settrace(before)
    return steps
