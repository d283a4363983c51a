"""The names of targets that the tasks of a job have claimed: no two of its tasks write one target.

Copies claim theirs when the job is submitted, if it also has expansions (`JobStore.submit`). An expansion claims all of
its targets before it adds a task. Of two expansions that want one target at the same time, at least one fails before
anything of it is copied. The claims are deleted with the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain

from mirror.errors import TargetRepeated
from mirror.records.claims import Claim, ClaimState
from mirror.records.states import STEP, job_script
from mirror.redis.client import Redis


class JobTargets:
    """Claims names of targets. Safe to share between threads. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._claim = redis.script(job_script("claim_targets.lua"))

    def claim(self, claim: Claim, targets: Sequence[tuple[str, str]]) -> ClaimState:
        """Claim the targets of (target, source) for the task of *claim*, in steps. Return the claim's state.

        Repeating it changes nothing. Raises TargetRepeated if another task of the job has claimed one of them. Then the
        task has none.
        """
        state = ClaimState.HELD
        for part in _parts(targets):
            found, *others = self._claim(args=[*claim.proof, "claim", part])
            state = ClaimState(found)
            if others:
                self._give_back(claim, targets)
                raise TargetRepeated(others[0], (others[1], dict(targets)[others[0]]))
            if not state:
                break
        return state

    def _give_back(self, claim: Claim, targets: Sequence[tuple[str, str]]) -> None:
        for part in _parts(targets):
            self._claim(args=[*claim.proof, "give back", part])


def _parts(targets: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the list in parts that a script may touch at once, each as a flat list in JSON."""
    for start in range(0, len(targets), STEP):
        yield json.dumps(list(chain.from_iterable(targets[start : start + STEP])))
