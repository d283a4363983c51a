"""The benchmark of serving: percentiles, medians, the load that is sent, and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.measurement import percentile
from bench.report import BEGIN, END
from bench.serving.load import CLIENTS, Measurement, Row, rows
from bench.serving.report import Report
from bench.serving.servers import CACHED, OURS, UNCACHED, StoredImage
from bench.slow_clients import Probes

PAGE = Path(__file__).parents[3] / "docs" / "benchmarks.md"
BASE = "http://127.0.0.1:5000"
LARGE, SMALL = "sha256:" + "a" * 64, "sha256:" + "b" * 64
IMAGE = StoredImage("team/app", "v1", "sha256:" + "c" * 64, 1234, {LARGE: 100_000, SMALL: 10_000}, LARGE)


def measurement(cpu_ms: float, *, seconds: float = 2.0, errors: int = 0) -> Measurement:
    return Measurement(seconds, 1000 / seconds, p99_ms=12.0, cpu_ms=cpu_ms, s3_ms=0.5, client_ms=0.1, errors=errors)


def row(title: str) -> Row:
    return next(one for one in rows([500, 1000]) if one.title == title)


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        pytest.param(range(1, 101), 0.99, 99, id="one of a hundred is slower"),
        pytest.param(range(1, 101), 0.5, 50, id="the middle"),
        pytest.param(range(1, 51), 0.99, 50, id="of few values the slowest"),
        pytest.param([7, 3], 1.0, 7, id="in any order"),
        pytest.param([7], 0.01, 7, id="of one value that one"),
    ],
)
def test_a_percentile_is_the_value_that_its_share_does_not_exceed(
    values: Sequence[float], share: float, found: float
) -> None:
    assert percentile(values, share) == found


def test_rounds_are_summed_up_by_medians_and_all_their_errors() -> None:
    middle = Measurement.median([measurement(3.0, errors=1), measurement(9.0, seconds=4.0), measurement(4.0, errors=2)])
    assert (middle.cpu_ms, middle.seconds, middle.rate, middle.errors) == (4.0, 2.0, 500.0, 3)


def test_a_warm_row_repeats_its_requests() -> None:
    assert row("HEAD by tag").job(BASE, [IMAGE], 2.0) == {
        "clients": CLIENTS,
        "seconds": 2.0,
        "requests": [
            {
                "method": "HEAD",
                "url": f"{BASE}/v2/team/app/manifests/v1",
                "accept": "application/vnd.oci.image.manifest.v1+json",
                "status": 200,
                "digest": IMAGE.digest,
                "length": 1234,
            }
        ],
    }


def test_a_cold_row_requests_every_blob_once() -> None:
    job = row("cold: blob, 307").job(BASE, [IMAGE], 2.0)
    assert job["seconds"] == 0
    assert [(request["digest"], request["status"], request["length"]) for request in job["requests"]] == [
        (LARGE, 307, 100_000),
        (SMALL, 307, 10_000),
    ]


@pytest.mark.parametrize(("title", "redirected"), [("500 pulls, redirecting", True), ("500 pulls, streaming", False)])
def test_pulls_say_whether_blobs_must_be_redirected(title: str, redirected: bool) -> None:
    job = row(title).job(BASE, [IMAGE], 2.0)
    assert job["pulls"] == 500
    assert job["images"] == [
        {"base": BASE, "repository": "team/app", "tag": "v1", "digest": IMAGE.digest, "redirected": redirected}
    ]


def report(titles: Sequence[str], *, load: float = 0.25) -> Report:
    costs = {OURS: 1.0, CACHED: 2.0, UNCACHED: 4.0}
    return Report(
        date="2026-11-28",
        load=load,
        versions=["Image Mirror: 1234567", "registry v3.1.2"],
        seed=7,
        rounds=3,
        pull_rounds=1,
        rows=[row(title) for title in titles],
        medians={(title, name): measurement(cost, seconds=cost) for title in titles for name, cost in costs.items()},
    )


def test_the_report_has_requests_and_pulls_in_tables_of_their_own() -> None:
    lines = report(["HEAD by tag", "500 pulls, redirecting"]).markdown().splitlines()
    assert "| HEAD by tag | **Image Mirror** | 1000 | 12 | 1.00 | 0.50 |" in lines
    assert "| HEAD by tag | distribution | 500 | 12 | 2.00 | 0.50 |" in lines
    assert "| 500 pulls, redirecting | **Image Mirror** | 1.0 | 0 | 12 | 1.00 | 0.50 |" in lines


def test_the_report_divides_our_figures_by_those_of_each_other_server() -> None:
    lines = report(["HEAD by tag"]).markdown().splitlines()
    assert "| | distribution: CPU | time | distribution, no cache: CPU | time |" in lines
    assert "| HEAD by tag | 0.50 | 0.50 | 0.25 | 0.25 |" in lines


def test_a_report_of_pulls_alone_says_nothing_about_requests() -> None:
    markdown = report(["500 pulls, redirecting"]).markdown()
    assert "per request: not measured." in markdown
    assert "| request |" not in markdown


@pytest.mark.parametrize(("load", "marked"), [(0.25, False), (6.0, True)])
def test_a_run_on_a_loaded_machine_is_marked(load: float, marked: bool) -> None:
    assert ("**Other programs used the cores too" in report(["HEAD by tag"], load=load).markdown()) == marked


def test_the_json_has_every_measurement() -> None:
    results = json.loads(report(["HEAD by tag"]).json())["results"]
    assert [(one["row"], one["server"], one["cpu_ms"]) for one in results] == [
        ("HEAD by tag", OURS, 1.0),
        ("HEAD by tag", CACHED, 2.0),
        ("HEAD by tag", UNCACHED, 4.0),
    ]


@pytest.mark.parametrize(
    ("name", "command"),
    [("serving", "python -m bench.serving"), ("slow-clients", "python -m bench.slow_clients")],
)
def test_the_page_has_a_place_for_the_results(name: str, command: str) -> None:
    page = PAGE.read_text()
    assert page.index(BEGIN.format(name=name, command=command)) < page.index(END.format(name=name))


@pytest.mark.parametrize(
    ("took", "shown"),
    [
        pytest.param([0.002, 0.004, 0.004, 0.030], "4, 30", id="all succeeded"),
        pytest.param([0.002, 0.003], "2, 3 (2 of 4 failed)", id="some failed"),
        pytest.param([], "all failed", id="none succeeded"),
    ],
)
def test_probes_of_fast_clients_show_median_p99_and_failures(took: Sequence[float], shown: str) -> None:
    assert str(Probes(4, took)) == shown
