"""Origins: what credentials belong to."""

from __future__ import annotations

import pytest

from mirror.http.transport import Origin


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example", "https://a.example:443/path?query", True),
        ("http://a.example", "http://A.example.:80", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "https://b.example", False),
        ("https://a.example", "https://sub.a.example", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, *, same: bool) -> None:
    assert (Origin.of(one) == Origin.of(other)) is same
