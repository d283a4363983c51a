"""What expansions have listed and chosen: every tag with the rule that dropped it, stored next to the task.

A selection is written once, when its source was listed completely. Then it is worked through in parts. A worker that
takes the task over continues with the next part. Ten thousand tags take about 100 kB in Redis.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from ulid import ULID

from mirror.errors import TaskUnknown
from mirror.records.claims import Claim, ClaimState
from mirror.records.fields import at
from mirror.records.ids import new_ulid
from mirror.records.jobs import Entry, JobStore, read_entries, task_arguments
from mirror.records.spec import TaskSpec
from mirror.records.states import job_script
from mirror.records.task import Task
from mirror.redis import keys
from mirror.redis.client import Redis

PART: Final = 200
"""Names in one part: as many sources are asked together, and as many tasks are added by one script."""
_PARTS_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Choice:
    """A listed tag or repository. *rule* is the rule that dropped it, None if it was selected. *detail* says why.

    A selected tag has a *digest* if a rule was about it. Then this digest was chosen, whatever the tag shows later.
    """

    name: str
    rule: str | None = None
    detail: str | None = None
    digest: str | None = None


class SelectionStore:
    """Selections, and the tasks that expansions add to their jobs. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis, jobs: JobStore) -> None:
        self._redis = redis
        self._jobs = jobs
        self._keep = redis.script(job_script("keep_selection.lua"))
        self._expand = redis.script(job_script("expand.lua"))

    def keep(self, claim: Claim, choices: Sequence[Choice], summary: Mapping[str, Any]) -> ClaimState:
        """Store all *choices* of an expansion, in their order, and the *summary* that is shown of them.

        The summary has the counts ``listed`` and ``selected``. It is written last, and only then the selection counts.
        """
        rest = iter(range(0, len(choices), PART))
        parts = self.parts(len(choices))
        while starts := list(islice(rest, _PARTS_AT_ONCE)):
            flat = [value for start in starts for value in (str(start // PART), _packed(choices[start : start + PART]))]
            state = ClaimState(self._keep(args=[*claim.proof, json.dumps(flat), "", ""]))
            if state is not ClaimState.HELD:
                return state
        return ClaimState(self._keep(args=[*claim.proof, "[]", json.dumps(summary), parts]))

    @staticmethod
    def parts(choices: int) -> int:
        """Return the number of parts of so many choices."""
        return -(-choices // PART)

    def part(self, task_id: str, number: int) -> list[Choice]:
        """Return the choices of one part, from 0."""
        found = self._redis.call("HGET", keys.task_selection(task_id), number)
        return _unpacked(found) if found else []

    def expansions(self, job_id: str) -> Iterator[Task]:
        """Yield the expansions of a job, in their order. Of its other tasks only the kind is read."""
        kinds = self._jobs.task_fields(job_id, "kind")
        found = (task_id for task_id, kind in kinds if kind == "expand")
        yield from (task for task in map(self._jobs.task, found) if task)

    def add_part(
        self, claim: Claim, number: int, specs: Sequence[TaskSpec], *, unchanged: int, skipped: int = 0
    ) -> tuple[ClaimState, list[Entry]]:
        """Add the tasks of one part to the claim's job, and count its *unchanged* and *skipped* images.

        *number* counts from 1. Repeating it adds nothing. Returns the claim's state, and the queue entries of the tasks
        that are released.
        """
        now = self._redis.now()
        first = int(new_ulid(now))
        tasks = [
            Task(f"task_{ULID.from_int(first + place)}", claim.task.job, spec, "queued", at(now))
            for place, spec in enumerate(specs)
        ]
        added = task_arguments(tasks) if tasks else ("{}", "[]", "[]")
        state, *entries = self._expand(args=[*claim.proof, number, unchanged, *added, skipped])
        return ClaimState(state), read_entries(entries)

    def choices(
        self, job_id: str, task_id: str, *, limit: int, after: int | None, selected: bool | None
    ) -> tuple[list[Choice], int | None]:
        """Return at most *limit* choices after the place *after*. *selected* leaves out the others.

        The second value is the place to continue from, None at the end. Raises JobUnknown or TaskUnknown.
        """
        task = self._jobs.task_of(job_id, task_id)
        place = 0 if after is None else after + 1
        found: list[tuple[int, Choice]] = []
        while place < task.expansion.parts * PART and len(found) <= limit:
            part = self.part(task.id, place // PART)
            begin = place - place % PART
            found += [
                (begin + at_, choice)
                for at_, choice in enumerate(part)
                if begin + at_ >= place and selected in (None, choice.rule is None)
            ]
            place = begin + PART
        if not task.expansion.parts and task.spec.kind != "expand":
            raise TaskUnknown(job_id, task_id)
        more = found[limit - 1][0] if len(found) > limit else None
        return [choice for _, choice in found[:limit]], more


def _packed(choices: Sequence[Choice]) -> str:
    rows = [[choice.name, choice.rule, choice.detail, choice.digest] for choice in choices]
    return base64.b64encode(zlib.compress(json.dumps(rows, separators=(",", ":")).encode())).decode()


def _unpacked(text: str) -> list[Choice]:
    return [Choice(*row) for row in json.loads(zlib.decompress(base64.b64decode(text)))]
