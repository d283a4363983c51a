from __future__ import annotations

import pytest

from mirror.oci.platform import Platform


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
