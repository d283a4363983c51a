"""``WWW-Authenticate`` in the forms that registries send, and in those that they should not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.registry.challenges import Challenge, parse_challenges

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
        (f'Basic realm="{"a" * 9000}"', []),
    ],
)
def test_challenges_are_read_in_their_order(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges(header)] == expected


@given(st.text(st.characters(max_codepoint=255), max_size=300))
def test_any_header_is_read_without_an_error(header: str) -> None:
    parse_challenges(header)


@given(st.lists(st.sampled_from(["Bearer", " ", ",", "=", '"', "\\", "realm", "a"]), max_size=60).map("".join))
def test_headers_made_of_the_grammars_own_parts_are_read_without_an_error(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()
