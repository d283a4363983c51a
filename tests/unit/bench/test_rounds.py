"""The order is fair: every case once in a round, and no tool always first."""

from __future__ import annotations

from collections.abc import Collection

from bench.image_mirror import ImageMirror
from bench.measurement import Case
from bench.peers import Peer
from bench.rounds import Plan
from bench.shapes import shapes
from bench.source import LoadedShape
from bench.tool import Tool

ROUNDS = 20


def plan(*, warm_only: Collection[str] = ()) -> Plan:
    loaded = {name: LoadedShape(shape, ()) for name, shape in shapes().items()}
    tools: dict[str, Tool] = {
        "ours": ImageMirror(),
        "skopeo": Peer("skopeo", lambda _: []),
        "regsync": Peer("regsync", lambda _: []),
    }
    return Plan(("loopback", "capped"), loaded, tools, ROUNDS, seed=7, warm_only=warm_only)


def test_every_round_has_every_case_once() -> None:
    rounds = list(plan().shuffled())
    assert len(rounds) == ROUNDS
    assert all(len(cases) == len(set(cases)) == 2 * (6 * 3 + 2) for cases in rounds)
    assert len({frozenset(cases) for cases in rounds}) == 1


def test_workers_are_compared_where_images_share_a_base() -> None:
    ours = {case for case in next(plan().shuffled()) if case.tool == "ours" and case.workers > 1}
    assert ours == {Case(rig, "shared-base", "ours", workers) for rig in ("loopback", "capped") for workers in (2, 4)}


def test_no_tool_is_always_first() -> None:
    compared = [[case for case in cases if case.shape == "one-layer"] for cases in plan().shuffled()]
    assert {cases[0].tool for cases in compared} == {"ours", "skopeo", "regsync"}


def test_another_memory_budget_makes_another_tool() -> None:
    roomy = ImageMirror(budget="384MiB")
    assert (ImageMirror().name, roomy.name) == ("ours", "ours-384mib")
    assert Case("capped", "one-layer", roomy.name).is_ours
    assert not Case("capped", "one-layer", "skopeo").is_ours


def test_the_same_seed_gives_the_same_order() -> None:
    assert list(plan().shuffled()) == list(plan().shuffled())


def test_a_tool_for_warm_syncs_only_copies_nothing_else() -> None:
    cases = next(plan(warm_only=("regsync",)).shuffled())
    assert {case.shape for case in cases if case.tool == "regsync"} == {"warm-tags"}
