from __future__ import annotations

import pytest

from service.http.problems import RangeUnsatisfiable
from service.v2.ranges import RequestedRange, is_same_version, requested_range

SIZE = 2048
HUGE = "9" * 5000
ETAG = f'"sha256:{"a" * 64}"'

PARTS = [
    ("bytes=0-0", 0, 1),
    ("bytes=10-19", 10, 20),
    ("bytes=2047-2047", 2047, 2048),
    ("bytes=2000-", 2000, 2048),
    ("bytes=0-", 0, 2048),
    ("bytes=2040-99999", 2040, 2048),
    (f"bytes=2040-{HUGE}", 2040, 2048),
    (f"bytes={'0' * 5000}7-{'0' * 5000}8", 7, 9),
    ("bytes=-10", 2038, 2048),
    ("bytes=-2048", 0, 2048),
    ("bytes=-9999", 0, 2048),
    (f"bytes=-{HUGE}", 0, 2048),
    ("BYTES=0-1", 0, 2),
    ("Bytes = 0-1 ", 0, 2),
    ("bytes=\t0-1", 0, 2),
    ("bytes=0-1,", 0, 2),
    ("bytes=,, 0-1 ,", 0, 2),
    ("bytes=0-1,5000-6000", 0, 2),
    ("bytes=-0,3-4", 3, 5),
]


@pytest.mark.parametrize(("header", "start", "stop"), PARTS)
def test_a_range_covers_the_bytes_that_the_blob_has(header: str, start: int, stop: int) -> None:
    assert requested_range(header, SIZE) == RequestedRange(start, stop)


WHOLE = [
    None,
    "",
    "bytes",
    "bytes 0-1",
    "lines=0-1",
    "seconds=x",
    "=0-1",
    "none",
    "bytes=0-1,4-5",
    "bytes=0-1,0-1",
    "bytes=4-5 , 0-1,-3",
]


@pytest.mark.parametrize("header", WHOLE)
def test_another_unit_and_several_ranges_get_the_whole_blob(header: str | None) -> None:
    assert requested_range(header, SIZE) is None


NOT_IN_THE_BLOB = ["bytes=2048-", "bytes=2048-2049", "bytes=99999-", f"bytes={HUGE}-", "bytes=-0", "bytes=-0,2048-"]


@pytest.mark.parametrize("header", NOT_IN_THE_BLOB)
def test_a_range_that_no_byte_is_in_is_refused(header: str) -> None:
    with pytest.raises(RangeUnsatisfiable, match="none of them is in the requested range") as refused:
        requested_range(header, SIZE)
    assert refused.value.headers == {"Content-Range": "bytes */2048"}


MALFORMED = [
    "bytes=x",
    "bytes=-",
    "bytes=--1",
    "bytes=1",
    f"bytes={HUGE}",
    "bytes=0x1-2",
    "bytes=1.5-2",
    "bytes=+1-2",
    "bytes=0 - 1",
    "bytes=0- 1",
    "bytes=1-2-3",
    "bytes=0-1;4-5",
    "bytes=٣-٤",
    "bytes=0-1,x",
    "bytes=0-1,bytes=4-5",  # a header given twice arrives so
    "bytes==0-1",
]


@pytest.mark.parametrize("header", MALFORMED)
def test_a_malformed_range_is_refused(header: str) -> None:
    with pytest.raises(RangeUnsatisfiable, match="the Range header is malformed"):
        requested_range(header, SIZE)


@pytest.mark.parametrize("header", ["bytes=5-1", "bytes=500-0", f"bytes={HUGE}0-0", "bytes=0-1,5-4"])
def test_a_range_that_ends_before_it_begins_is_refused(header: str) -> None:
    with pytest.raises(RangeUnsatisfiable, match="ends before it begins"):
        requested_range(header, SIZE)


@pytest.mark.parametrize("header", ["bytes=", "bytes=,", "bytes= , "])
def test_a_range_header_without_a_range_is_refused(header: str) -> None:
    with pytest.raises(RangeUnsatisfiable):
        requested_range(header, SIZE)


def test_of_an_empty_blob_a_suffix_is_the_whole_and_any_other_range_is_refused() -> None:
    assert requested_range("bytes=-5", 0) is None
    for header in ("bytes=0-", "bytes=0-0", "bytes=-0"):
        with pytest.raises(RangeUnsatisfiable) as refused:
            requested_range(header, 0)
        assert refused.value.headers == {"Content-Range": "bytes */0"}


@pytest.mark.parametrize("if_range", [None, ETAG, f" {ETAG}\t"])
def test_a_range_applies_to_the_version_that_if_range_names(if_range: str | None) -> None:
    assert is_same_version(if_range, ETAG)


@pytest.mark.parametrize(
    "if_range", ["", f"W/{ETAG}", f"{ETAG}, {ETAG}", ETAG.strip('"'), '"other"', "*", "Sat, 28 Nov 2026 20:00:00 GMT"]
)
def test_a_weak_etag_a_list_and_a_date_are_another_version(if_range: str) -> None:
    assert not is_same_version(if_range, ETAG)
