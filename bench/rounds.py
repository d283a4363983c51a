"""The order of a run: rounds, each with every case once, so that what changes on the machine meets all alike."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.contender import Contender
from bench.floor import Floor
from bench.measurement import OURS, Case, Measurement, Rig, Summary
from bench.rig import Bench
from bench.source import LoadedShape

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Programme:
    """What is to be measured. Those named in *warm_only* take part where everything was copied before, nowhere else.

    No round is begun that would probably not end within *seconds*, but the first.
    """

    rigs: Sequence[Rig]
    shapes: Mapping[str, LoadedShape]
    contenders: Mapping[str, Contender]
    rounds: int
    seed: int
    warm_only: Collection[str] = ()
    seconds: float = math.inf

    def shuffled(self) -> Iterator[list[Case]]:
        """Rounds of every case: the comparisons in a random order, and those compared in a random order too."""
        order = random.Random(self.seed)  # noqa: S311 - repeatable on purpose
        for _ in range(self.rounds):
            compared = [(rig, shape) for rig in self.rigs for shape in self.shapes]
            order.shuffle(compared)
            groups = [self._cases(rig, shape) for rig, shape in compared]
            for group in groups:
                order.shuffle(group)
            yield [case for group in groups for case in group]

    def _cases(self, rig: Rig, shape: str) -> list[Case]:
        measured = self.shapes[shape].shape
        workers = {OURS: measured.workers}
        taking_part = [name for name in self.contenders if measured.warm or name not in self.warm_only]
        return [Case(rig, shape, name, n) for name in taking_part for n in workers.get(name, (1,))]


def perform(programme: Programme, bench: Bench, tell: Tell) -> dict[Case, list[Measurement]]:
    """Whole rounds; raises CopyFailed or CopyIsWrong at the first copy that is none."""
    measured: dict[Case, list[Measurement]] = defaultdict(list)
    begun = time.monotonic()
    for number, cases in enumerate(programme.shuffled()):
        passed = time.monotonic() - begun
        if number and passed / number * (number + 1) > programme.seconds:
            tell(f"no time for more than {number} rounds")
            break
        for place, case in enumerate(cases, 1):
            copy = bench.copy(case, programme.contenders[case.contender], programme.shapes[case.shape])
            measured[case].append(copy)
            at = f"round {number + 1} of {programme.rounds}, {place}/{len(cases)}"
            tell(f"{at}: {case.rig} {case.shape} {case.title}: {copy.seconds:.2f} s, verified")
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
