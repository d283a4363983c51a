from __future__ import annotations

import pytest

from mirror.oci.platform import Platform, PlatformPattern, best_platform


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("windows/amd64", Platform("windows", "amd64")),
    ],
)
def test_a_platform_is_written_os_architecture_variant(text: str, platform: Platform) -> None:
    assert Platform.parse(text) == platform
    assert str(platform) == text


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux//v8", "linux/arm/v7/x", "x" * 10_000])
def test_anything_else_is_refused_with_a_short_message(text: str) -> None:
    with pytest.raises(ValueError, match="is not a platform: write os/architecture") as refused:
        Platform.parse(text)
    assert len(str(refused.value)) < 300


def test_windows_builds_differ_in_their_version() -> None:
    assert Platform("windows", "amd64", "", "10.0.17763.1") != Platform("windows", "amd64", "", "10.0.20348.1")


def test_only_unknown_unknown_is_an_attestation_s_platform() -> None:
    assert Platform("unknown", "unknown").is_unknown
    assert not Platform("unknown", "amd64").is_unknown
    assert not Platform("linux", "unknown").is_unknown


def test_the_version_of_a_pattern_is_a_glob() -> None:
    pattern = PlatformPattern.parse("windows/amd64:10.0.20348.*")
    assert pattern.matches(Platform("windows", "amd64", "", "10.0.20348.2700"))
    assert not pattern.matches(Platform("windows", "amd64", "", "10.0.17763.1"))
    assert not pattern.matches(Platform("windows", "amd64"))


def test_a_pattern_with_a_malformed_glob_is_refused() -> None:
    with pytest.raises(ValueError, match="the '\\[' at character 4 is not closed"):
        PlatformPattern.parse("windows/amd64:10.[0")


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
    ],
)
def test_platforms_are_compared_in_the_spelling_of_containerd(text: str, normalized: str) -> None:
    assert str(Platform.parse(text).normalized) == normalized


MATCHES = [
    ("linux/arm64", "linux/arm64/v8", True),
    ("linux/arm64/v8", "linux/arm64", True),
    ("linux/aarch64", "linux/arm64/v8", True),
    ("linux/arm64", "linux/arm64/v9", True),
    ("linux/arm64/v8", "linux/arm64/v9", False),
    ("linux/arm", "linux/arm/v6", True),
    ("linux/arm", "linux/arm", True),
    ("linux/arm/v7", "linux/arm", True),
    ("linux/armhf", "linux/arm", True),
    ("linux/armhf", "linux/arm/v6", False),
    ("linux/arm/v6", "linux/arm/v7", False),
    ("linux/amd64/v1", "linux/amd64", True),
    ("linux/amd64", "linux/amd64/v3", True),
    ("linux/amd64", "windows/amd64", False),
    ("linux/arm", "linux/arm64", False),
    ("windows/amd64", "windows/amd64:10.0.20348.1", True),
    ("windows/amd64:10.0.20348.*", "windows/amd64:10.0.20348.2113", True),
    ("windows/amd64:10.0.20348.*", "windows/amd64:10.0.17763.1", False),
    ("windows/amd64:10.0.20348.*", "windows/amd64", False),
    ("linux/amd64", "unknown/unknown", False),
]


@pytest.mark.parametrize(("pattern", "platform", "does"), MATCHES)
def test_a_pattern_matches_every_variant_and_version_that_it_does_not_name(
    pattern: str, platform: str, does: bool
) -> None:
    assert PlatformPattern.parse(pattern).matches(Platform.parse(platform)) is does


@pytest.mark.parametrize(
    "text",
    [
        "linux",
        "linux/amd64/v1/x",
        "linux/amd64:",
        "linux/amd64:10.0,linux/arm64",
        "linux/a b",
        "linux/" + "a" * 250,
        "../amd64",
        "linux/é",
    ],
)
def test_a_malformed_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a platform"):
        PlatformPattern.parse(text)


@pytest.mark.parametrize(
    ("platforms", "best"),
    [
        (["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"], "linux/amd64"),
        (["linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v2"),
        (["linux/arm64/v9", "linux/arm64/v8"], "linux/arm64/v8"),
        (["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v6"),
        (["linux/arm/v8", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7"),
        (["linux/arm/v6", "linux/arm"], "linux/arm"),
        (["windows/amd64:10.0.17763.9", "windows/amd64:10.0.17763.10"], "windows/amd64:10.0.17763.10"),
        (["windows/amd64", "windows/amd64:10.0.17763.10"], "windows/amd64:10.0.17763.10"),
        (["linux/amd64/odd", "linux/amd64/v4"], "linux/amd64/v4"),
    ],
)
def test_the_best_platform_is_the_one_that_most_nodes_can_run(platforms: list[str], best: str) -> None:
    for ordered in (platforms, platforms[::-1]):
        assert str(best_platform(map(Platform.parse, ordered))) == best
