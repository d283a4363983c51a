"""What the benchmark makes of its measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.buckets import Versity, counted
from bench.floor import Floor
from bench.measurement import Case, Measurement, Summary
from bench.report import BEGIN, END, publish
from bench.servers import CAP
from bench.traffic import Asked, asked_of_source

FLOOR = Floor(hash_rate=2e9, relay=0.25, cores=2)


def copied(seconds: float, s3_up: int | None = None) -> Measurement:
    return Measurement(seconds, {"own": seconds * 2}, {"own": 100}, 1.0, 3, 1000, 5, s3_up=s3_up)


@pytest.mark.parametrize(
    ("total", "largest", "connections", "seconds"),
    [
        (CAP * 10, 1, 2, 5.0),  # two connections
        (10_000_000_000, 10_000_000_000, 1000, 5.0),  # one hash
        (8_000_000_000, 1, None, 3.0),  # two cores, and no pacing
    ],
)
def test_the_limit_is_what_binds_most(total: int, largest: int, connections: int | None, seconds: float) -> None:
    assert FLOOR.limit(total=total, largest=largest, connections=connections) == pytest.approx(seconds)


def test_a_slower_line_makes_a_later_limit() -> None:
    assert replace(FLOOR, rate=CAP // 3).limit(total=CAP * 10, largest=1, connections=2) == pytest.approx(15.0)


def test_a_summary_is_the_middle_with_its_spread() -> None:
    summary = Summary.of(Case("capped", "one-layer", "ours"), [copied(3.0, 7), copied(9.0), copied(4.0, 9)], 1.0)
    assert (summary.middle.seconds, summary.fastest, summary.slowest, summary.copies) == (4.0, 3.0, 9.0, 3)
    assert summary.middle.cpu == {"own": 8.0}
    assert summary.middle.s3_up == 8


def test_a_figure_that_nobody_counted_stays_unknown() -> None:
    assert Summary.of(Case("loopback", "one-layer", "ours"), [copied(1.0)], 1.0).middle.s3_up is None


def test_the_source_is_asked_as_often_as_its_log_says() -> None:
    log = (
        b'127.0.0.1 - - [25/Nov/2026:03:03:31 +0000] "GET /v2/x/blobs/sha256:1 HTTP/1.1" 200 109 "" "curl/7.88.1"\n'
        b'time="2026-11-25T03:03:31Z" level=warning msg="no request"\n'
        b'127.0.0.1 - - [25/Nov/2026:03:03:32 +0000] "HEAD /v2/x/manifests/1 HTTP/1.1" 200 0 "" ""\n'
    )
    assert asked_of_source(log) == Asked(requests=2, bytes=109)


def test_s3_is_asked_as_often_as_its_log_says(tmp_path: Path) -> None:
    line = b"key images [25/November/2026:03:03:47 +0000] 127.0.0.1 key ID s3_PutObject a/b /images/a/b 200 - 0 9 1 1\n"
    (tmp_path / "access.log").write_bytes(b"log starts 2026-11-25 03:03:46\n" + line * 3)
    assert Versity(tmp_path).requests() == 3


def test_s3_is_asked_as_often_as_its_metrics_say() -> None:
    metrics = """# TYPE minio_api_requests_total counter
minio_api_requests_4xx_errors_total{name="HeadObject",server="127.0.0.1:1",type="s3"} 7
minio_api_requests_total{name="HeadObject",server="127.0.0.1:1",type="s3"} 9
minio_api_requests_total{name="PutObjectPart",server="127.0.0.1:1",type="s3"} 1.2e+01
"""
    assert counted(metrics) == 21


def test_a_result_takes_the_place_of_the_one_before_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    places = {name: f"{BEGIN.format(name=name)}\n{{}}\n{END.format(name=name)}" for name in ("one", "two")}
    page.write_text(f"before\n{places['one'].format('old')}\n{places['two'].format('kept')}\nafter\n")
    publish("new", page, "one")
    assert page.read_text() == f"before\n{places['one'].format('new')}\n{places['two'].format('kept')}\nafter\n"


def test_a_result_without_a_place_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    with pytest.raises(ValueError, match=r"page\.md has no place for one"):
        publish("new", page, "one")
    assert page.read_text() == "before\n"
