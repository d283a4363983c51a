"""Headers that have several lines, are joined, empty or unusable."""

from __future__ import annotations

import pytest
from urllib3 import HTTPHeaderDict

from mirror.http.response import Headers


def headers(*lines: tuple[str, str]) -> Headers:
    return Headers(HTTPHeaderDict(lines))


def test_any_other_header_is_its_first_line() -> None:
    found = headers(("Location", "/first"), ("Location", "/second"), ("X", " \tpadded "), ("Y", ""), ("Y", "filled"))
    assert (found["location"], found["X"], found["Y"], found.get("Z")) == ("/first", "padded", "filled", None)
    assert "Z" not in found
    assert found.lines("LOCATION") == ["/first", "/second"]


def test_a_list_header_is_all_its_lines() -> None:
    challenges = headers(("WWW-Authenticate", "Basic"), ("WWW-Authenticate", 'Bearer realm="x"'))
    assert challenges["www-authenticate"] == 'Basic, Bearer realm="x"'
    found = headers(("Content-Encoding", "Identity, gzip"), ("Content-Encoding", "X-GZIP"))
    assert found.content_codings == ["gzip", "x-gzip"]


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (["0"], 0),
        (["10"], 10),
        (["10", "10"], 10),
        (["10, 10"], 10),
        (["10", "9"], None),
        ([""], None),
        (["-1"], None),
        (["1e3"], None),
        (["9" * 20], None),
        (["٣"], None),
        ([], None),
    ],
)
def test_a_length_is_known_where_all_lines_agree(lines: list[str], length: int | None) -> None:
    assert headers(*(("Content-Length", line) for line in lines)).content_length == length


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Application/JSON; charset=utf-8"], "application/json"),
        (["application/json", "text/plain"], "application/json"),
        (["application/json, text/plain"], "application/json"),
        (["", "application/json"], "application/json"),
        ([" ; charset=utf-8"], None),
        ([], None),
    ],
)
def test_a_media_type_is_the_first_that_is_named(lines: list[str], expected: str | None) -> None:
    assert headers(*(("Content-Type", line) for line in lines)).media_type == expected
