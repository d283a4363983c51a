"""The order of a run: rounds with every case once.

So changes of the machine affect all tools equally.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.floor import Floor
from bench.measurement import OURS, Case, Measurement, Rig, Summary
from bench.rig import Bench
from bench.source import LoadedShape
from bench.tool import Tool

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. Tools named in *warm_only* only copy warm shapes.

    After the first round, no round starts that would probably not end within *seconds*.
    """

    rigs: Sequence[Rig]
    shapes: Mapping[str, LoadedShape]
    tools: Mapping[str, Tool]
    rounds: int
    seed: int
    warm_only: Collection[str] = ()
    seconds: float = math.inf

    def shuffled(self) -> Iterator[list[Case]]:
        """Generate rounds of every case.

        The comparisons, and the tools of each comparison, are in a random order.
        """
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
        names = [name for name in self.tools if measured.warm or name not in self.warm_only]
        return [Case(rig, shape, name, n) for name in names for n in workers.get(name, (1,))]


def run_rounds(plan: Plan, bench: Bench, log: Log) -> dict[Case, list[Measurement]]:
    """Measure whole rounds. Raises CopyFailed or CopyIsWrong at the first bad copy."""
    measured: dict[Case, list[Measurement]] = defaultdict(list)
    start = time.monotonic()
    for number, cases in enumerate(plan.shuffled()):
        passed = time.monotonic() - start
        if number and passed / number * (number + 1) > plan.seconds:
            log(f"there is no time for more than {number} rounds")
            break
        for place, case in enumerate(cases, 1):
            copy = bench.copy(case, plan.tools[case.tool], plan.shapes[case.shape])
            measured[case].append(copy)
            at = f"round {number + 1} of {plan.rounds}, {place}/{len(cases)}"
            log(f"{at}: {case.rig} {case.shape} {case.title}: {copy.seconds:.2f} s, verified")
    return measured


def summaries(plan: Plan, measured: Mapping[Case, Sequence[Measurement]], floor: Floor) -> list[Summary]:
    """Return the summaries in the plan's order.

    A limit counts as many connections as the case had open at once.
    """
    found = []
    for case in sorted(measured, key=lambda case: _place(plan, case)):
        loaded = plan.shapes[case.shape]
        total = loaded.bytes_to_copy
        connections = [copy.source_connections for copy in measured[case] if copy.source_connections]
        limit = floor.limit(
            total=total,
            largest=max(loaded.blobs.values()) if total else 0,
            connections=max(connections) if connections else None,
        )
        found.append(Summary.of(case, measured[case], limit))
    return found


def _place(plan: Plan, case: Case) -> tuple[int, int, int, int]:
    names = list(plan.tools), list(plan.shapes)
    return plan.rigs.index(case.rig), names[1].index(case.shape), names[0].index(case.tool), case.workers
