"""Versions in tags, and ranges of them: what npm and Masterminds/semver say, and where tags are different."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.oci.version import TagVersion, VersionRange


def version(tag: str) -> TagVersion:
    found = TagVersion.parse(tag)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("1", TagVersion((1, 0, 0))),
        ("1.2", TagVersion((1, 2, 0))),
        ("v1.2", TagVersion((1, 2, 0))),
        ("V1.2.3", TagVersion((1, 2, 3))),
        ("1.2.3.4", TagVersion((1, 2, 3, 4))),
        ("1.2.3.0", TagVersion((1, 2, 3))),
        ("2024.01.05", TagVersion((2024, 1, 5))),
        ("1.2.3_build", TagVersion((1, 2, 3))),
        ("1.2.3-rc1_build.5", TagVersion((1, 2, 3), "rc.1")),
        ("3.18.0-rc1", TagVersion((3, 18, 0), "rc.1")),
        ("3.18-rc1", TagVersion((3, 18, 0), "rc.1")),
        ("3.18.0-RC.01", TagVersion((3, 18, 0), "rc.1")),
        ("3.18.0-rc-1", TagVersion((3, 18, 0), "rc.1")),
        ("3.13.0rc1", TagVersion((3, 13, 0), "rc.1")),
        ("3.14.0a2", TagVersion((3, 14, 0), "alpha.2")),
        ("1.0.0.Beta3", TagVersion((1, 0, 0), "beta.3")),
        ("1.0-m3", TagVersion((1, 0, 0), "milestone.3")),
        ("1.2.3-SNAPSHOT", TagVersion((1, 2, 3), "snapshot")),
        ("1.2.3-dev.5", TagVersion((1, 2, 3), "dev.5")),
        ("7-alpine", TagVersion((7, 0, 0), "", "alpine")),
        ("1.2.3-alpine3.18", TagVersion((1, 2, 3), "", "alpine3.18")),
        ("3.13.0rc1-alpine3.19", TagVersion((3, 13, 0), "rc.1", "alpine3.19")),
        ("1.2.3-alpine-rc2", TagVersion((1, 2, 3), "rc.2", "alpine")),
        ("1.2.3-rc-2-slim-x", TagVersion((1, 2, 3), "rc.2", "slim-x")),
        ("1.2.3-premium", TagVersion((1, 2, 3), "", "premium")),
        ("1.2.3-debian-12-r5", TagVersion((1, 2, 3), "", "debian-12-r5")),
        ("3.6.0.Final", TagVersion((3, 6, 0), "", "Final")),
        ("1.2-a", TagVersion((1, 2, 0), "", "a")),
    ],
)
def test_a_tag_shows_numbers_a_prerelease_and_a_variant(tag: str, expected: TagVersion) -> None:
    assert TagVersion.parse(tag) == expected


@pytest.mark.parametrize(
    "tag",
    [
        *("", "latest", "v", "edge", "alpine-3.18", "release-1.2", "RELEASE.2024-01-05T22-17-24Z", "version1"),
        *("1.", "1..2", "1.2-", "1.2--x", "1.2.3_", "1.2_x", "1_2_3", "1.2.3abc", "1x", ".1", "-1"),
        *("20240105", "202401", "2024-01-05", "20240105.1", "123456-alpine", "1a23456", "5e3ab12", "1b2"),
        *("1" * 129, "1." * 64 + "1", "١.٢"),
    ],
)
def test_other_tags_show_no_version(tag: str) -> None:
    assert TagVersion.parse(tag) is None


def test_precedence_is_that_of_semver_with_numbers_in_prereleases_and_more_than_three_numbers() -> None:
    ordered = [
        *("1.0.0-alpha", "1.0.0-alpha1", "1.0.0-alpha.beta", "1.0.0-b1", "1.0.0-beta2", "1.0.0-beta11", "1.0.0-rc1"),
        *("1.0.0", "1.0.0.1", "1.0.1", "1.2", "1.10.0", "2-rc1", "2"),
    ]
    keys = [version(tag).precedence for tag in ordered]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("equal", [("1.2", "1.2.0", "v1.2", "1.2.0.0", "1.2.0_b1", "01.02", "1.2-alpine")])
def test_variants_and_builds_and_missing_numbers_are_equal(equal: tuple[str, ...]) -> None:
    assert len({version(tag).precedence for tag in equal}) == 1


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        # The operators (npm's README, "Ranges")
        (">=3.18 <4", "3.18 3.18.0 v3.19.1 3.99 3.18.0.1", "3 3.17.9 4 4.0.1 4.0.0-rc1 3.19-rc1 3.18-alpine"),
        (">=3.18,<4", "3.18 3.99", "3 4"),
        (">= 3.18 , < 4", "3.18 3.99", "3 4"),
        (">=3.18<4", "3.18 3.99", "3 4"),
        (">1.2", "1.3 2", "1.2 1.2.9"),
        (">1.2.3", "1.2.4 1.2.3.1", "1.2.3"),
        ("<1.2", "1.1.9 1", "1.2 1.2.1"),
        ("<=1.2", "1.2 1.2.9 1", "1.3"),
        ("<=1.2.3", "1.2.3", "1.2.4 1.2.3.1"),
        ("=1.2.3", "1.2.3 v1.2.3 1.2.3.0 1.2.3_b", "1.2.4 1.2.3.1 1.2.3-rc1"),
        ("1.2.3", "1.2.3", "1.2.4"),
        ("=1.2", "1.2 1.2.9", "1.3"),
        ("!=1.2", "1.1 1.3", "1.2 1.2.9"),
        ("^1, !=1.2.3", "1.2.2 1.9", "1.2.3 2"),
        # Alternatives, and wildcards ("X-Ranges")
        ("1.2.7 || >=1.2.9 <2.0.0", "1.2.7 1.2.9 1.4.6", "1.2.8 2"),
        ("1 || 3", "1.2 3.4", "2 4"),
        ("*", "0 1.2 99", "1-alpine 1-rc1 latest"),
        ("x", "0 1.2 99", ""),
        ("1.x", "1 1.9", "2 0.9"),
        ("1.X.x", "1 1.9", "2"),
        ("1.2.*", "1.2 1.2.9", "1.3"),
        ("1.2.3.x", "1.2.3 1.2.3.9", "1.2.4"),
        (">=1.x", "1 2", "0.9"),
        ("<=2.x", "2.9", "3"),
        # Hyphens
        ("1.2 - 2", "1.2 2 2.9.9", "1.1 3"),
        ("1.2.3 - 2.3.4", "1.2.3 2.3.4", "1.2.2 2.3.5"),
        ("1.2 - 2, !=1.5", "1.4 1.6", "1.5 1.5.1 3"),
        # Tildes and carets
        ("~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3"),
        ("~1.2", "1.2 1.2.9", "1.3"),
        ("~1", "1 1.9", "2"),
        ("~>1.2", "1.2.9", "1.3"),
        ("~1.2.3.4", "1.2.3.4 1.2.9", "1.2.3.3 1.3"),
        ("^1.2.3", "1.2.3 1.9", "1.2.2 2"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3 0.2.2"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        ("^0.0", "0.0 0.0.9", "0.1"),
        ("^0", "0 0.9", "1"),
        ("^0.0.0", "0", "0.0.1"),
        ("^1.2.x", "1.2 1.9", "2 1.1"),
        # Pre-releases: npm's rule, and "-0" of Masterminds
        (">=1.2.3-rc.2", "1.2.3-rc2 1.2.3-rc10 1.2.3 9", "1.2.3-rc1 1.3.0-rc1 1.2.3-beta9"),
        (">=1.2.3-beta <1.3", "1.2.3-rc1 1.2.9", "1.2.3-alpha 1.3-rc1"),
        ("~1.2.3-beta.2", "1.2.3-beta.4 1.2.9", "1.2.4-beta.2 1.3"),
        ("^1.2.3-beta.2", "1.2.3-beta.4 1.9", "1.2.4-beta.2 2"),
        ("1.2.3-rc1", "1.2.3-rc1 1.2.3-rc.1 1.2.3rc1", "1.2.3 1.2.3-rc2"),
        (">=3.13.0rc1", "3.13.0rc2 3.13", "3.13.0b1"),
        (">=3.18.0-0 <4.0.0", "3.18-rc1 3.19-alpha 3.19", "4.0.0-rc1 3.17-rc1"),
        (">=4.0.0-rc1 <4.0.0", "4.0.0-rc1 4.0.0-rc2", "4.0.0 3.9"),
        ("*-0", "1 1-rc1", "1-alpine"),
        ("1.x-0", "1.2 1.2-rc1", "2-rc1 2"),
        ("1.2-0", "1.2 1.2-rc1 1.2.9-rc1", "1.3-rc1 1.3"),
        ("<2.0.0", "1.9", "2.0.0-rc1"),
        # Variants
        (">=20-alpine <21", "20-alpine 20.1.0-alpine", "20 20.1-slim 20.1-alpine3.18 20.1-rc1-alpine 21-alpine"),
        (">=20-alpine* <21", "20-alpine 20.1-alpine3.18", "20 20.1-slim"),
        (">=20-* <21", "20 20-alpine 20.1-slim", "20.1-rc1"),
        (">=20-alpine <21-slim", "20.1-alpine 20.1-slim", "20.1"),
        (">=20 || >=20-alpine", "20 20-alpine", "20-slim"),
        (">=1.2-rc1-slim", "1.2-rc2-slim 1.2-slim", "1.2-rc2 1.2"),
        (">=1.2-0-slim", "1.3-rc2-slim 1.3-slim", "1.3-rc2"),
        ("1.x-*, !=1.2-alpine", "1.2-slim 1.2 1.3-alpine", "1.2-alpine 1.2.9-alpine"),
        ("1.x, !=1.2", "1.3", "1.2 1.2-slim"),
        ("1.28.x-k3s[12]", "1.28.5-k3s1", "1.28.5-k3s3"),
        ("=1.2.3+build", "1.2.3", "1.2.4"),
        ("=1.2.3_build", "1.2.3", "1.2.4"),
    ],
)
def test_a_range_allows(text: str, inside: str, outside: str) -> None:
    versions = VersionRange.parse(text)
    assert [tag for tag in inside.split() if not versions.allows(version(tag))] == []
    found = [TagVersion.parse(tag) for tag in outside.split()]
    assert [str(one) for one in found if one and versions.allows(one)] == []


@pytest.mark.parametrize(
    ("text", "tag", "reason"),
    [
        (">=3.18 <4", "3.17", "3.17.0 is not in '>=3.18 <4'"),
        (">=3.18 <4", "3.19-rc1", "3.19.0-rc.1 is a pre-release, and '>=3.18 <4' names none of that version"),
        (">=3.18 <4", "3.18-slim", "3.18.0-slim has the suffix 'slim', which is not what '>=3.18 <4' names"),
        ("3-slim", "3.18", "3.18.0 has no suffix, which is not what '3-slim' names"),
        ("3 || 4-slim", "4", "4.0.0 has no suffix, which is not what '3 || 4-slim' names"),
    ],
)
def test_a_refusal_has_a_reason(text: str, tag: str, reason: str) -> None:
    assert VersionRange.parse(text).refusal(version(tag)) == reason


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("", 1, "a version is expected, such as 1.2, 1.x or 1.2.3-alpine"),
        ("latest", 1, "a version is expected"),
        (">=", 3, "a version is expected"),
        ("1 || ", 6, "a version is expected"),
        ("|| 1", 1, "write '||'"),
        ("1,", 3, "a version is expected"),
        ("1, ,2", 4, "a version is expected"),
        ("1\n2", 2, "a version is expected"),
        ("=>1", 2, "write '>='"),
        ("==1", 2, "write '=' once"),
        (">=1.2 <<4", 8, "write '<='"),
        ("1 | 2", 3, "write '||'"),
        ("1 && 2", 3, "write ','"),
        ("1.2 -2", 5, "write a blank on both sides of '-'"),
        ("1.2- 2", 4, "'-' cannot follow a version"),
        ("1.2abc", 4, "'abc' cannot follow a version. A suffix begins with '-'"),
        (">=1.y", 4, "'.y' cannot follow a version. A suffix begins with '-'"),
        (">=x.y", 4, "'.y' cannot follow a version. A suffix begins with '-'"),
        ("1.x.3", 1, "no number may follow a wildcard"),
        (">*", 1, "'>' and a wildcard allow no version"),
        ("!=x", 1, "'!=' and a wildcard allow no version"),
        (">=20240101", 3, "a first number of more than 5 digits is no version. Order by 'numeric'"),
        ("1.x-rc1", 1, "a pre-release needs all numbers of its version"),
        ("1.2-rc*", 4, "a pre-release is no pattern. The suffix '-0' stands for all pre-releases"),
        ("1.2-[a", 4, "a '[' of the suffix is not closed"),
    ],
)
def test_a_mistake_is_named_with_its_position(text: str, position: int, problem: str) -> None:
    with pytest.raises(ValueError, match="is not a range of versions") as refused:
        VersionRange.parse(text)
    assert f"at character {position}, {problem}" in str(refused.value)


def test_a_range_is_bounded() -> None:
    VersionRange.parse("1 || " * 199 + "1")
    with pytest.raises(ValueError, match="at most 1000 characters"):
        VersionRange.parse("1 || " * 200 + "1")


@settings(deadline=None)
@given(st.text(max_size=150))
def test_any_text_is_a_version_or_none(text: str) -> None:
    found = TagVersion.parse(text)
    assert found is None or TagVersion.parse(str(found)) is not None


@settings(deadline=None)
@given(st.text(alphabet="0123456789.xX*v<>=!~^|, -rcalphine_+[]", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_range_or_a_value_error_with_a_position(text: str) -> None:
    try:
        versions = VersionRange.parse(text)
    except ValueError as refused:
        assert "at character" in str(refused)  # noqa: PT017 - any text may also be a range
    else:
        assert str(versions) == text
