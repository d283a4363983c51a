from __future__ import annotations

import pytest

from mirror.oci.platform import Platform, PlatformPattern


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
