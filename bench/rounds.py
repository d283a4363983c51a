"""The order of a run: rounds, each with every case once, so that what changes on the machine meets all alike."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.contender import Contender
from bench.floor import Floor
from bench.measurement import Case, Measurement, Rig, Summary
from bench.rig import Bench
from bench.source import LoadedShape

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Programme:
    """What is to be measured. Those named in *warm_only* take part where everything was copied before, nowhere else."""

    rigs: Sequence[Rig]
    shapes: Mapping[str, LoadedShape]
    contenders: Mapping[str, Contender]
    rounds: int
    seed: int
    warm_only: Collection[str] = ()

    def shuffled(self) -> Iterator[Case]:
        """Every case in every round: the comparisons in a random order, and those compared in a random order too."""
        order = random.Random(self.seed)  # noqa: S311 - repeatable on purpose
        for _ in range(self.rounds):
            compared = [(rig, shape) for rig in self.rigs for shape in self.shapes]
            order.shuffle(compared)
            for rig, shape in compared:
                cases = self._cases(rig, shape)
                order.shuffle(cases)
                yield from cases

    def _cases(self, rig: Rig, shape: str) -> list[Case]:
        measured = self.shapes[shape].shape
        workers = {"ours": measured.workers}
        taking_part = [name for name in self.contenders if measured.warm or name not in self.warm_only]
        return [Case(rig, shape, name, n) for name in taking_part for n in workers.get(name, (1,))]


def perform(programme: Programme, bench: Bench, tell: Tell) -> dict[Case, list[Measurement]]:
    """Every copy of the programme; raises CopyFailed or CopyIsWrong at the first that is none."""
    measured: dict[Case, list[Measurement]] = defaultdict(list)
    cases = list(programme.shuffled())
    for number, case in enumerate(cases, 1):
        copy = bench.copy(case, programme.contenders[case.contender], programme.shapes[case.shape])
        measured[case].append(copy)
        tell(f"{number}/{len(cases)} {case.rig} {case.shape} {case.title}: {copy.seconds:.2f} s, verified")
    return measured


def summaries(programme: Programme, measured: Mapping[Case, Sequence[Measurement]], floor: Floor) -> list[Summary]:
    """In the programme's order, the limit beside each: with as many connections as the case had open at once."""
    found = []
    for case in sorted(measured, key=lambda case: _place(programme, case)):
        loaded = programme.shapes[case.shape]
        total = loaded.bytes_to_copy
        connections = [copy.source_connections for copy in measured[case] if copy.source_connections]
        limit = floor.limit(
            total=total,
            largest=max(loaded.blobs.values()) if total else 0,
            connections=max(connections) if connections else None,
        )
        found.append(Summary.of(case, measured[case], limit))
    return found


def _place(programme: Programme, case: Case) -> tuple[int, int, int, int]:
    names = list(programme.contenders), list(programme.shapes)
    return programme.rigs.index(case.rig), names[1].index(case.shape), names[0].index(case.contender), case.workers
