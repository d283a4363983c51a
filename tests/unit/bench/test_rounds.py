"""The order of a benchmark is fair: every case once a round, and no contender always first."""

from __future__ import annotations

from collections.abc import Collection

from bench.contender import Contender
from bench.measurement import Case
from bench.ours import ImageMirror
from bench.peers import Peer
from bench.rounds import Programme
from bench.shapes import shapes
from bench.source import LoadedShape

ROUNDS = 20


def programme(*, warm_only: Collection[str] = ()) -> Programme:
    loaded = {name: LoadedShape(shape, ()) for name, shape in shapes().items()}
    contenders: dict[str, Contender] = {
        "ours": ImageMirror(),
        "skopeo": Peer("skopeo", lambda _: []),
        "regsync": Peer("regsync", lambda _: []),
    }
    return Programme(("loopback", "capped"), loaded, contenders, ROUNDS, seed=7, warm_only=warm_only)


def test_every_round_has_every_case_once() -> None:
    rounds = list(programme().shuffled())
    assert len(rounds) == ROUNDS
    assert all(len(cases) == len(set(cases)) == 2 * (6 * 3 + 2) for cases in rounds)
    assert len({frozenset(cases) for cases in rounds}) == 1


def test_workers_are_compared_where_images_share_a_base() -> None:
    ours = {case for case in next(programme().shuffled()) if case.contender == "ours" and case.workers > 1}
    assert ours == {Case(rig, "shared-base", "ours", workers) for rig in ("loopback", "capped") for workers in (2, 4)}


def test_nobody_is_always_first() -> None:
    compared = [[case for case in cases if case.shape == "one-layer"] for cases in programme().shuffled()]
    assert {cases[0].contender for cases in compared} == {"ours", "skopeo", "regsync"}


def test_another_budget_makes_another_contender_of_ours() -> None:
    roomy = ImageMirror(budget="384MiB")
    assert (ImageMirror().name, roomy.name) == ("ours", "ours-384mib")
    assert Case("capped", "one-layer", roomy.name).is_ours
    assert not Case("capped", "one-layer", "skopeo").is_ours


def test_the_same_seed_is_the_same_order() -> None:
    assert list(programme().shuffled()) == list(programme().shuffled())


def test_who_is_there_for_warm_syncs_only_copies_nothing_else() -> None:
    cases = next(programme(warm_only=("regsync",)).shuffled())
    assert {case.shape for case in cases if case.contender == "regsync"} == {"warm-tags"}
