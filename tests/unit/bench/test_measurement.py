"""Limits, medians, request counts, polling intervals, and publishing the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.floor import Floor
from bench.image_mirror import poll_interval
from bench.measurement import Case, Measurement, Summary
from bench.report import BEGIN, END, publish
from bench.servers import CAP, SourceTraffic, Versity, minio_requests, source_traffic

FLOOR = Floor(hash_rate=2e9, relay=0.25, cores=2)


def measurement(seconds: float, s3_up: int | None = None) -> Measurement:
    return Measurement(seconds, {"own": seconds * 2}, {"own": 100}, 1.0, 3, 1000, 5, s3_up=s3_up)


@pytest.mark.parametrize(
    ("total", "largest", "connections", "seconds"),
    [
        (CAP * 10, 1, 2, 5.0),  # two connections
        (10_000_000_000, 10_000_000_000, 1000, 5.0),  # one hash
        (8_000_000_000, 1, None, 3.0),  # two cores, and no pacing
    ],
)
def test_the_limit_is_the_largest_of_three(total: int, largest: int, connections: int | None, seconds: float) -> None:
    assert FLOOR.limit(total=total, largest=largest, connections=connections) == pytest.approx(seconds)


def test_a_slower_connection_gives_a_higher_limit() -> None:
    assert replace(FLOOR, rate=CAP // 3).limit(total=CAP * 10, largest=1, connections=2) == pytest.approx(15.0)


def test_a_summary_has_the_median_and_the_spread() -> None:
    summary = Summary.of(
        Case("capped", "one-layer", "ours"), [measurement(3.0, 7), measurement(9.0), measurement(4.0, 9)], 1.0
    )
    assert (summary.median.seconds, summary.fastest, summary.slowest, summary.copies) == (4.0, 3.0, 9.0, 3)
    assert summary.median.cpu == {"own": 8.0}
    assert summary.median.s3_up == 8


def test_a_figure_that_was_not_counted_stays_unknown() -> None:
    assert Summary.of(Case("loopback", "one-layer", "ours"), [measurement(1.0)], 1.0).median.s3_up is None


def test_requests_to_the_source_are_counted_in_its_log() -> None:
    log = (
        b'127.0.0.1 - - [25/Nov/2026:03:03:31 +0000] "GET /v2/x/blobs/sha256:1 HTTP/1.1" 200 109 "" "curl/7.88.1"\n'
        b'time="2026-11-25T03:03:31Z" level=warning msg="no request"\n'
        b'127.0.0.1 - - [25/Nov/2026:03:03:32 +0000] "HEAD /v2/x/manifests/1 HTTP/1.1" 200 0 "" ""\n'
    )
    assert source_traffic(log) == SourceTraffic(requests=2, bytes=109)


def test_requests_to_versity_are_counted_in_its_log(tmp_path: Path) -> None:
    line = b"key images [25/November/2026:03:03:47 +0000] 127.0.0.1 key ID s3_PutObject a/b /images/a/b 200 - 0 9 1 1\n"
    (tmp_path / "access.log").write_bytes(b"log starts 2026-11-25 03:03:46\n" + line * 3)
    assert Versity(tmp_path).requests() == 3


def test_requests_to_minio_are_counted_in_its_metrics() -> None:
    metrics = """# TYPE minio_api_requests_total counter
minio_api_requests_4xx_errors_total{name="HeadObject",server="127.0.0.1:1",type="s3"} 7
minio_api_requests_total{name="HeadObject",server="127.0.0.1:1",type="s3"} 9
minio_api_requests_total{name="PutObjectPart",server="127.0.0.1:1",type="s3"} 1.2e+01
"""
    assert minio_requests(metrics) == 21


def test_a_result_replaces_only_the_earlier_one_of_its_name(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    places = {
        name: f"{BEGIN.format(name=name, command='bench/run')}\n{{}}\n{END.format(name=name)}"
        for name in ("one", "two")
    }
    page.write_text(f"before\n{places['one'].format('old')}\n{places['two'].format('kept')}\nafter\n")
    publish("new", page, "one")
    assert page.read_text() == f"before\n{places['one'].format('new')}\n{places['two'].format('kept')}\nafter\n"


def test_a_result_without_a_place_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    with pytest.raises(ValueError, match=r"page\.md has no place for one"):
        publish("new", page, "one")
    assert page.read_text() == "before\n"


@pytest.mark.parametrize(
    ("passed", "copied", "seconds"),
    [
        pytest.param(0.3, 0, 0.05, id="nothing is known yet"),
        pytest.param(0.5, 500, 0.25, id="half of what is left"),
        pytest.param(9.0, 100, 1.0, id="never longer than a second"),
        pytest.param(2.5, 1000, 0.02, id="all bytes are there"),
    ],
)
def test_a_job_is_polled_when_it_may_have_ended(passed: float, copied: int, seconds: float) -> None:
    assert poll_interval(passed, {"bytes": {"total": 1000, "copied": copied}}) == pytest.approx(seconds)
